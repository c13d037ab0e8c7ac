-- The store: processes with their outbox, agreements, consent, grants, small state.

create table negotiations (
  pid text collate "C" primary key,
  counter_party text not null,
  peer_pid text not null,
  waiting_for text not null,
  version bigint not null,
  document text not null
);
-- two replicas that get the same request at once make one process of it
create unique index negotiations_by_peer on negotiations (counter_party, peer_pid) where peer_pid <> '';
create index negotiations_waiting on negotiations (pid) where waiting_for <> '';

create table transfers (
  pid text collate "C" primary key,
  counter_party text not null,
  peer_pid text not null,
  agreement_id text not null,
  version bigint not null,
  document text not null
);
create unique index transfers_by_peer on transfers (counter_party, peer_pid) where peer_pid <> '';
create index transfers_by_agreement on transfers (agreement_id);

create table agreements (
  id text collate "C" primary key,
  counter_party text not null,
  state text not null check (state in ('pending', 'active', 'terminated')),
  document text not null
);
create index agreements_by_counter_party on agreements (counter_party);

create table outbox (
  seq bigint generated always as identity primary key,
  id text collate "C" not null unique,
  process_pid text not null,
  due_at bigint not null,
  attempts bigint not null,
  last_error text not null,
  state text not null default 'pending' check (state in ('pending', 'abandoned')),
  leased_to text not null default '',
  lease_until bigint not null default 0,
  document text not null
);
create index outbox_pending on outbox (process_pid, seq) where state = 'pending';

create table consents (
  id text collate "C" primary key,
  subject text not null,
  purpose text not null,
  recipient text not null,
  document text not null
);
create index consents_by_subject on consents (subject);
create index consents_by_purpose on consents (purpose, recipient);

create table consent_versions (
  purpose text not null,
  recipient text not null,
  version bigint not null,
  primary key (purpose, recipient)
);

create table grants (
  id text collate "C" primary key,
  agreement_id text not null,
  transfer_pid text not null,
  consumer text not null,
  dataset_id text not null,
  purpose text not null,
  format text not null,
  epoch bigint not null,
  state text not null check (state in ('active', 'ended')),
  ended_reason text not null,
  document text not null
);
create index grants_active on grants (id) where state = 'active';

create table key_values (
  key text collate "C" primary key,
  document text not null
);

create table uses (
  key text collate "C" not null,
  period text collate "C" not null,
  used bigint not null,
  primary key (key, period)
);
