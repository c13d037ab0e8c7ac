-- What other participants offer, searchable. Derived from their catalogues: it can be read again.

create table index_peers (
  participant text collate "C" primary key,
  due_at bigint not null,
  leased_to text not null default '',
  lease_until bigint not null default 0,
  document text not null
);

-- `key` is the SHA-256 of a page's URL
create table index_pages (
  participant text collate "C" not null,
  key text collate "C" not null,
  document text not null,
  primary key (participant, key)
);

-- `counted`: the facets that answers count, as a JSON array; few combinations of them are many datasets
create table index_datasets (
  number bigint generated always as identity primary key,
  participant text collate "C" not null,
  dataset_id text collate "C" not null,
  seen_at bigint not null,
  fingerprint text not null,
  counted text not null,
  unique (participant, dataset_id)
);

-- apart: a search goes through many datasets, and shows few
create table index_documents (
  number bigint primary key references index_datasets on delete cascade,
  document text not null
);

-- what datasets are chosen by
create table index_facets (
  number bigint not null references index_datasets on delete cascade,
  facet text collate "C" not null,
  primary key (number, facet)
);

-- the words come folded to plain letters and with their weights: no dictionary is asked
create table index_words (
  number bigint primary key,
  words tsvector not null
);
create index index_words_by_word on index_words using gin (words);
