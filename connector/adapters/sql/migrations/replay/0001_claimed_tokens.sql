-- Single-use token ids, by fingerprint. The same text serves both dialects.

create table claimed_tokens (
  fingerprint text primary key,
  expires_at bigint not null
);
create index claimed_tokens_by_expiry on claimed_tokens (expires_at);
