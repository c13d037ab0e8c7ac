-- The store: processes with their outbox, agreements, consent, grants, small state.

create table negotiations (
  pid text primary key,
  counter_party text not null,
  peer_pid text not null,
  waiting_for text not null,
  version integer not null,
  document text not null
) strict;
-- two replicas that get the same request at once make one process of it
create unique index negotiations_by_peer on negotiations (counter_party, peer_pid) where peer_pid <> '';
create index negotiations_waiting on negotiations (pid) where waiting_for <> '';

create table transfers (
  pid text primary key,
  counter_party text not null,
  peer_pid text not null,
  agreement_id text not null,
  version integer not null,
  document text not null
) strict;
create unique index transfers_by_peer on transfers (counter_party, peer_pid) where peer_pid <> '';
create index transfers_by_agreement on transfers (agreement_id);

create table agreements (
  id text primary key,
  counter_party text not null,
  state text not null check (state in ('pending', 'active', 'terminated')),
  document text not null
) strict;
create index agreements_by_counter_party on agreements (counter_party);

create table outbox (
  seq integer primary key autoincrement,
  id text not null unique,
  process_pid text not null,
  due_at integer not null,
  attempts integer not null,
  last_error text not null,
  state text not null default 'pending' check (state in ('pending', 'abandoned')),
  leased_to text not null default '',
  lease_until integer not null default 0,
  document text not null
) strict;
create index outbox_pending on outbox (process_pid, seq) where state = 'pending';

create table consents (
  id text primary key,
  subject text not null,
  purpose text not null,
  recipient text not null,
  document text not null
) strict;
create index consents_by_subject on consents (subject);
create index consents_by_purpose on consents (purpose, recipient);

create table consent_versions (
  purpose text not null,
  recipient text not null,
  version integer not null,
  primary key (purpose, recipient)
) strict, without rowid;

create table grants (
  id text primary key,
  agreement_id text not null,
  transfer_pid text not null,
  consumer text not null,
  dataset_id text not null,
  purpose text not null,
  format text not null,
  epoch integer not null,
  state text not null check (state in ('active', 'ended')),
  ended_reason text not null,
  document text not null
) strict;
create index grants_active on grants (id) where state = 'active';

create table key_values (
  key text primary key,
  document text not null
) strict, without rowid;

create table uses (
  key text not null,
  period text not null,
  used integer not null,
  primary key (key, period)
) strict, without rowid;
