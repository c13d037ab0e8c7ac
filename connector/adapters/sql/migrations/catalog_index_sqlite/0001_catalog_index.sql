-- What other participants offer, searchable. Derived from their catalogues: it can be read again.

create table index_peers (
  participant text primary key,
  due_at integer not null,
  leased_to text not null default '',
  lease_until integer not null default 0,
  document text not null
) strict, without rowid;

-- `key` is the SHA-256 of a page's URL
create table index_pages (
  participant text not null,
  key text not null,
  document text not null,
  primary key (participant, key)
) strict, without rowid;

-- `counted`: the facets that answers count, as a JSON array; few combinations of them are many datasets
create table index_datasets (
  number integer primary key,
  participant text not null,
  dataset_id text not null,
  seen_at integer not null,
  fingerprint text not null,
  counted text not null,
  unique (participant, dataset_id)
) strict;

-- apart: a search goes through many datasets, and shows few
create table index_documents (
  number integer primary key references index_datasets on delete cascade,
  document text not null
) strict;

-- what datasets are chosen by
create table index_facets (
  number integer not null references index_datasets on delete cascade,
  facet text not null,
  primary key (number, facet)
) strict, without rowid;

-- the words come folded to plain letters: nothing is left for the tokenizer to fold
create virtual table index_words using fts5 (
  title, keywords, description, tokenize = 'unicode61 remove_diacritics 0', prefix = '2 3'
);
