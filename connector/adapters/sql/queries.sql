-- Every statement of the SQL adapters, by name; a comment under each name says what it is for.
-- `$1`.. are parameters (SQLite gets `?1`..). A `piece` is what the dialects spell differently, used as {piece}.
-- Both dialects prepare every statement in tests/ports/test_store.py.

-- piece: now (sqlite)
-- The database's own clock, in microseconds: only leases look at it.
cast((julianday('now') - 2440587.5) * 86400000000.0 as integer)

-- piece: now (postgresql)
cast(extract(epoch from clock_timestamp()) * 1000000 as bigint)

-- piece: lock (sqlite)
-- Keep rows from other writers until the end of the transaction. SQLite has one writer.

-- piece: lock (postgresql)
for update

-- piece: lock_free_ones (sqlite)
-- The same, passing over rows that another replica holds.

-- piece: lock_free_ones (postgresql)
for update skip locked

-- piece: strings_in (sqlite)
-- A JSON array of strings, as rows with one column `value`.
json_each

-- piece: strings_in (postgresql)
json_array_elements_text

-- piece: next_position (sqlite)
-- null asks for the next row number: one writer, so positions are in order of commit. $4 must be used.
nullif($4, $4)

-- piece: next_position (postgresql)
-- Transactions commit in another order than they draw numbers. So a position is the transaction's number
-- and, below it, the event's ordinal in the transaction; see end_of_log.
((select base from event_log_base) + cast(cast(pg_current_xact_id() as text) as bigint)) * 1048576 + $4

-- piece: end_of_log (sqlite)
-- Positions from here on may still be joined by lower ones.
9223372036854775807

-- piece: end_of_log (postgresql)
-- Everything below belongs to transactions that have ended: nothing can appear behind a reader's back.
(((select base from event_log_base) + cast(cast(pg_snapshot_xmin(pg_current_snapshot()) as text) as bigint)) * 1048576)


-- schema ---------------------------------------------------------------------------------------------------

-- name: lock_schema (sqlite)
-- One process migrates at a time; the write lock is held already.
select 1;

-- name: lock_schema (postgresql)
-- One process migrates at a time. The number is arbitrary and ours.
select pg_advisory_xact_lock(4917203658);

-- name: has_schema_version (sqlite)
-- Whether this database was ever migrated.
select count(*) from sqlite_schema where type = 'table' and name = 'schema_version';

-- name: has_schema_version (postgresql)
-- Whether this database was ever migrated.
select count(*) from pg_catalog.pg_tables where schemaname = current_schema() and tablename = 'schema_version';

-- name: schema_version
-- The newest migration applied to one component.
select coalesce(max(version), 0) from schema_version where component = $1;

-- name: record_schema_version
-- One migration was applied.
insert into schema_version (component, version, name) values ($1, $2, $3);

-- name: ping
-- Whether the database answers.
select 1;


-- negotiations ---------------------------------------------------------------------------------------------

-- name: negotiation
-- One negotiation by our own pid.
select document from negotiations where pid = $1;

-- name: negotiation_by_peer
-- One negotiation by the peer's pid: a repeated request is recognised by it.
select document from negotiations where counter_party = $1 and peer_pid = $2 and peer_pid <> '';

-- name: negotiations
-- A page of all negotiations.
select document from negotiations where pid > $1 order by pid limit $2;

-- name: negotiations_waiting
-- A page of those that wait for a person.
select document from negotiations where waiting_for <> '' and pid > $1 order by pid limit $2;

-- name: negotiations_moving
-- A page of those that do not.
select document from negotiations where waiting_for = '' and pid > $1 order by pid limit $2;

-- name: insert_negotiation
-- A new process; no row where our pid or the peer's is taken.
insert into negotiations (pid, counter_party, peer_pid, waiting_for, version, document)
values ($1, $2, $3, $4, $5, $6)
on conflict do nothing;

-- name: update_negotiation
-- The next version; no row where another writer was first.
update negotiations
set counter_party = $2, peer_pid = $3, waiting_for = $4, version = $5, document = $6
where pid = $1 and version = $5 - 1;


-- transfers ------------------------------------------------------------------------------------------------

-- name: transfer
-- One transfer by our own pid.
select document from transfers where pid = $1;

-- name: transfer_by_peer
-- One transfer by the peer's pid: a repeated request is recognised by it.
select document from transfers where counter_party = $1 and peer_pid = $2 and peer_pid <> '';

-- name: transfers
-- All transfers.
select document from transfers order by pid;

-- name: transfers_of_agreement
-- The transfers of one agreement.
select document from transfers where agreement_id = $1 order by pid;

-- name: transfers_page
-- A page of the transfers, of one agreement where it is named.
select document from transfers
where pid > $1 and (cast($2 as text) is null or agreement_id = $2) order by pid limit $3;

-- name: insert_transfer
-- A new process; no row where our pid or the peer's is taken.
insert into transfers (pid, counter_party, peer_pid, agreement_id, version, document)
values ($1, $2, $3, $4, $5, $6)
on conflict do nothing;

-- name: update_transfer
-- The next version; no row where another writer was first.
update transfers
set counter_party = $2, peer_pid = $3, agreement_id = $4, version = $5, document = $6
where pid = $1 and version = $5 - 1;


-- agreements -----------------------------------------------------------------------------------------------

-- name: agreement
-- One agreement.
select document from agreements where id = $1;

-- name: agreement_for_change
-- One agreement, which nobody else changes before the commit.
select document from agreements where id = $1 {lock};

-- name: agreements
-- All agreements.
select document from agreements order by id;

-- name: agreements_with
-- The agreements with one counterparty.
select document from agreements where counter_party = $1 order by id;

-- name: save_agreement
-- Insert or replace; no row where it would bring a terminated agreement back.
insert into agreements (id, counter_party, state, document) values ($1, $2, $3, $4)
on conflict (id) do update
set counter_party = excluded.counter_party, state = excluded.state, document = excluded.document
where agreements.state <> 'terminated' or agreements.state = excluded.state;


-- outbox ---------------------------------------------------------------------------------------------------

-- name: enqueue
-- A message that its transaction decided to send. Leased to $7 for $8 microseconds from the start, unless
-- somebody else has to work on an earlier one of its queue; tells by whom it is leased, and which one is before.
insert into outbox (id, process_pid, due_at, attempts, last_error, document, leased_to, lease_until)
select $1, $2, $3, $4, $5, $6,
  case when others = 0 then cast($7 as text) else '' end,
  case when others = 0 and cast($7 as text) <> '' then {now} + cast($8 as bigint) else 0 end
from (
  select count(*) as others from outbox as earlier
  where earlier.process_pid = $2 and earlier.state = 'pending'
    and (earlier.leased_to <> cast($7 as text) or earlier.lease_until <= {now})
) as queue
where true
returning leased_to, (
  select earlier.id from outbox as earlier
  where earlier.process_pid = $2 and earlier.state = 'pending' and earlier.id <> $1
  order by earlier.seq desc
  limit 1
);

-- name: lease_due_messages
-- The head of each process's queue that is due and leased to nobody, now leased to $2 for $3 microseconds.
with due as (
  select seq from outbox as head
  where state = 'pending' and due_at <= $1 and lease_until <= {now}
    and not exists (
      select 1 from outbox as earlier
      where earlier.process_pid = head.process_pid and earlier.state = 'pending' and earlier.seq < head.seq
    )
  order by seq
  limit $4
  {lock_free_ones}
)
update outbox set leased_to = $2, lease_until = {now} + $3
where seq in (select seq from due)
returning seq, document, due_at, attempts, last_error;

-- name: message_sent
-- Acknowledged by the peer.
delete from outbox where id = $1 and state = 'pending';

-- name: postpone_message
-- One more failed attempt; try again at $2.
update outbox
set due_at = $2, last_error = $3, attempts = attempts + 1, leased_to = '', lease_until = 0
where id = $1 and state = 'pending';

-- name: release_messages
-- What is leased to $1 is anybody's again.
update outbox set leased_to = '', lease_until = 0 where state = 'pending' and leased_to = $1;

-- name: release_message
-- The message $2 is anybody's again, if it is leased to $1.
update outbox set leased_to = '', lease_until = 0 where state = 'pending' and leased_to = $1 and id = $2;

-- name: abandoned_messages
-- What was given up, the latest first, before the message $1 unless that is empty.
select seq, document, due_at, attempts, last_error from outbox
where state = 'abandoned'
  and (cast($1 as text) = '' or seq < (select seq from outbox where id = $1))
order by seq desc
limit $2;

-- name: abandon_message
-- Given up, together with everything that its process wanted to say after it.
update outbox
set state = 'abandoned', last_error = $2, leased_to = '', lease_until = 0
where state = 'pending'
  and process_pid = (select process_pid from outbox where id = $1)
  and seq >= (select seq from outbox where id = $1 and state = 'pending');


-- event log ------------------------------------------------------------------------------------------------

-- name: append_event
-- One event at the end of its topic; $4 is its ordinal in this transaction.
insert into event_log (position, topic, at, document) values ({next_position}, $1, $2, $3);

-- name: read_events
-- What comes after $2, while $5 holds the group's lease.
select position, document from event_log
where topic = $1 and position > $2 and position < {end_of_log}
  and exists (
    select 1 from event_groups
    where event_groups.topic = $1 and event_groups.name = $4
      and event_groups.holder = $5 and event_groups.lease_until > {now}
  )
order by position
limit $3;

-- name: prune_events
-- Forget the events of before $1 in every topic.
delete from event_log where at < $1;

-- name: join_group
-- The first member of a group begins at the start of the topic.
insert into event_groups (topic, name, position, holder, lease_until) values ($1, $2, -1, '', 0)
on conflict (topic, name) do nothing;

-- name: claim_group
-- Become, or stay, the one member that receives, for $4 microseconds; no row while another is.
update event_groups set holder = $3, lease_until = {now} + $4
where topic = $1 and name = $2 and (holder = $3 or lease_until <= {now})
returning position;

-- name: commit_group
-- Everything up to $4 is handled; no row when another member took over. Never moves back.
update event_groups
set position = case when position < $4 then $4 else position end, lease_until = {now} + $5
where topic = $1 and name = $2 and holder = $3;

-- name: leave_group
-- Let the next member begin at once.
update event_groups set holder = '', lease_until = 0 where topic = $1 and name = $2 and holder = $3;

-- name: align_event_log (sqlite)
-- Row numbers survive a restore.
select 1;

-- name: align_event_log (postgresql)
-- After a restore into another cluster transaction numbers begin anew: raise the base, so that new positions
-- stay above the old. Otherwise no visible row can be above its snapshot's end, and nothing changes.
update event_log_base
set base = 1 + (select max(position) / 1048576 from event_log)
  - cast(cast(pg_snapshot_xmax(pg_current_snapshot()) as text) as bigint)
where (select max(position) / 1048576 from event_log)
  >= base + cast(cast(pg_snapshot_xmax(pg_current_snapshot()) as text) as bigint);


-- consent --------------------------------------------------------------------------------------------------

-- name: consent
-- One record.
select document from consents where id = $1;

-- name: consents_of
-- The records of one subject (an encrypted id).
select document from consents where subject = $1 order by id;

-- name: consents_for
-- The records for one purpose and recipient, in whatever state.
select document from consents where purpose = $1 and recipient = $2 order by id;

-- name: consents_to_replace
-- The records among the ids $1 that are there already, kept from other writers.
select document from consents where id in (select value from {strings_in}($1)) order by id {lock};

-- name: insert_consent
-- A new record.
insert into consents (id, subject, purpose, recipient, document) values ($1, $2, $3, $4, $5);

-- name: replace_consent
-- A record that has grown.
update consents set subject = $2, purpose = $3, recipient = $4, document = $5 where id = $1;

-- name: consent_version
-- How often the set of consents for this purpose and recipient has changed.
select version from consent_versions where purpose = $1 and recipient = $2;

-- name: bump_consent_version
-- It has changed again.
insert into consent_versions (purpose, recipient, version) values ($1, $2, 1)
on conflict (purpose, recipient) do update set version = consent_versions.version + 1
returning version;


-- grants ---------------------------------------------------------------------------------------------------

-- name: grant
-- One grant. Epoch, state and reason are columns: they change without the document.
select document, epoch, state, ended_reason from grants where id = $1;

-- name: grants
-- The grants that a selector touches; null does not narrow, $5 = 1 narrows to the datasets in $6.
select document, epoch, state, ended_reason from grants
where (cast($1 as text) is null or agreement_id = $1)
  and (cast($2 as text) is null or transfer_pid = $2)
  and (cast($3 as text) is null or consumer = $3)
  and (cast($4 as text) is null or purpose = $4)
  and (cast($5 as bigint) = 0 or dataset_id in (select value from {strings_in}($6)))
order by id;

-- name: save_grant
-- Insert, or update what may change; no row where it has ended, where another grant has its id, or where
-- its epoch was raised since it was read (the stop signal would be lost).
insert into grants (
  id, agreement_id, transfer_pid, consumer, dataset_id, purpose, format, epoch, state, ended_reason, document
) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
on conflict (id) do update
set epoch = excluded.epoch, state = excluded.state, ended_reason = excluded.ended_reason,
    document = excluded.document
where grants.state = 'active' and grants.epoch <= excluded.epoch
  and grants.agreement_id = excluded.agreement_id and grants.transfer_pid = excluded.transfer_pid
  and grants.consumer = excluded.consumer and grants.dataset_id = excluded.dataset_id
  and grants.purpose = excluded.purpose and grants.format = excluded.format;

-- name: bump_grants
-- Raise the epoch of the active grants selected (as in `grants`) and end them where $7 gives a reason.
-- Locked in order of id: two occasions at once must not wait for each other.
with chosen as (
  select id from grants
  where state = 'active'
    and (cast($1 as text) is null or agreement_id = $1)
    and (cast($2 as text) is null or transfer_pid = $2)
    and (cast($3 as text) is null or consumer = $3)
    and (cast($4 as text) is null or purpose = $4)
    and (cast($5 as bigint) = 0 or dataset_id in (select value from {strings_in}($6)))
  order by id
  {lock}
)
update grants
set epoch = epoch + 1,
    state = case when $7 = '' then state else 'ended' end,
    ended_reason = $7
where id in (select id from chosen)
returning document, epoch, state, ended_reason;


-- small state ----------------------------------------------------------------------------------------------

-- name: value
-- One value.
select document from key_values where key = $1;

-- name: put_value
-- Insert or replace one value.
insert into key_values (key, document) values ($1, $2)
on conflict (key) do update set document = excluded.document;

-- name: delete_value
-- Forget one value.
delete from key_values where key = $1;

-- name: values
-- The values whose keys begin with $1.
select key, document from key_values where key >= $1 and substr(key, 1, length($1)) = $1 order by key;

-- name: count_use
-- One more use in the period, unless that would be more than $3.
insert into uses (key, period, used) values ($1, $2, 1)
on conflict (key, period) do update set used = uses.used + 1 where uses.used < $3
returning used;


-- catalogue index ------------------------------------------------------------------------------------------

-- piece: word_key (sqlite)
-- What ties the words to their dataset's number.
rowid

-- piece: word_key (postgresql)
-- What ties the words to their dataset's number.
number

-- piece: index_matches (sqlite)
-- The datasets that match the text $1 with a score, more for the title; '' matches all.
select rowid as number, cast(-1e9 * bm25(index_words, 8.0, 4.0, 1.0) as integer) as score
from index_words where index_words match case when $1 = '' then '""' else $1 end
union all
select number, 0 as score from index_datasets where $1 = ''

-- piece: json_text_3 (sqlite)
-- The parameter $3 as JSON, where it is looked at as text too.
$3

-- piece: json_text_3 (postgresql)
-- The parameter $3 as JSON, where it is looked at as text too.
cast(cast($3 as text) as json)

-- piece: index_unscored (sqlite)
-- The same without scores.
select rowid as number from index_words where index_words match case when $1 = '' then '""' else $1 end
union all
select number from index_datasets where $1 = ''

-- piece: index_unscored (postgresql)
-- The same without scores.
select number from index_words where words @@ cast(cast($1 as text) as tsquery)
union all
select number from index_datasets where cast($1 as text) = ''

-- piece: index_matches (postgresql)
-- The datasets that match the text $1 with a score, more for the title; '' matches all.
select number, cast(1e6 * ts_rank('{0, 0.125, 0.5, 1}', words, cast(cast($1 as text) as tsquery)) as bigint) as score
from index_words where words @@ cast(cast($1 as text) as tsquery)
union all
select number, cast(0 as bigint) as score from index_datasets where cast($1 as text) = ''

-- name: enrol_index_peer
-- Follow a participant from now on.
insert into index_peers (participant, due_at, document) values ($1, $2, $3) on conflict (participant) do nothing;

-- name: index_peers_beside
-- Those we follow that are not among $1.
select participant from index_peers where participant not in (select value from {strings_in}($1));

-- name: forget_index_words
-- All that is known of the participants in $1, one statement per table, this order.
delete from index_words where {word_key} in (
  select number from index_datasets where participant in (select value from {strings_in}($1))
);

-- name: forget_index_datasets
-- Their facets and documents go with them.
delete from index_datasets where participant in (select value from {strings_in}($1));

-- name: forget_index_pages
-- See forget_index_words.
delete from index_pages where participant in (select value from {strings_in}($1));

-- name: forget_index_peers
-- See forget_index_words.
delete from index_peers where participant in (select value from {strings_in}($1));

-- name: lease_index_peers
-- Those among $5 due for the longest that nobody else works on.
update index_peers set leased_to = $2, lease_until = {now} + $3
where participant in (
  select participant from index_peers
  where due_at <= $1 and lease_until <= {now} and participant in (select value from {strings_in}($5))
  order by due_at, participant
  limit $4
  {lock_free_ones}
)
returning due_at, document;

-- name: hold_index_lease
-- Prolong a lease; no row when it has run out.
update index_peers set lease_until = {now} + $3
where participant = $1 and leased_to = $2 and lease_until > {now};

-- name: release_index_lease
-- Given up before its end.
update index_peers set leased_to = '', lease_until = 0 where leased_to = $1;

-- name: finish_index_peer
-- An attempt is over: when the next one is due, and what became of this one.
update index_peers set due_at = $3, document = $4, leased_to = '', lease_until = 0
where participant = $1 and leased_to = $2;

-- name: hurry_index_peer
-- Due earlier.
update index_peers set due_at = case when due_at < $2 then due_at else $2 end
where participant = $1
returning due_at, document;

-- name: index_peers
-- Everybody we follow.
select due_at, document from index_peers order by participant;

-- name: index_pages
-- The pages of one participant's catalogue.
select document from index_pages where participant = $1;

-- name: put_index_page
-- Insert or replace a page.
insert into index_pages (participant, key, document) values ($1, $2, $3)
on conflict (participant, key) do update set document = excluded.document;

-- name: index_datasets_among
-- What is known of the datasets in $2.
select dataset_id, number, fingerprint from index_datasets
where participant = $1 and dataset_id in (select value from {strings_in}($2));

-- name: insert_index_dataset
-- A dataset seen for the first time.
insert into index_datasets (participant, dataset_id, seen_at, fingerprint, counted) values ($1, $2, $3, $4, $5);

-- name: update_index_dataset
-- A dataset that has changed.
update index_datasets set seen_at = $2, fingerprint = $3, counted = $4 where number = $1;

-- name: drop_index_words
-- Of a dataset that has changed.
delete from index_words where {word_key} = $1;

-- name: drop_index_document
-- Of a dataset that has changed.
delete from index_documents where number = $1;

-- name: insert_index_document
-- What is shown of a dataset.
insert into index_documents (number, document) values ($1, $2);

-- name: drop_index_facets
-- Of a dataset that has changed.
delete from index_facets where number = $1;

-- name: insert_index_words (sqlite)
-- The words of title, keywords and description.
insert into index_words (rowid, title, keywords, description) values ($1, $2, $3, $4);

-- name: insert_index_words (postgresql)
-- The words of title, keywords and description.
insert into index_words (number, words)
values ($1, cast(cast($2 as text) as tsvector) || cast(cast($3 as text) as tsvector) || cast(cast($4 as text) as tsvector));

-- name: insert_index_facet
-- One of the things a dataset can be chosen by.
insert into index_facets (number, facet) values ($1, $2);

-- name: drop_words_beside
-- Of the participant's datasets that are not among $2.
delete from index_words where {word_key} in (
  select number from index_datasets
  where participant = $1 and dataset_id not in (select value from {strings_in}($2))
);

-- name: drop_datasets_beside
-- The participant's datasets that are not among $2.
delete from index_datasets where participant = $1 and dataset_id not in (select value from {strings_in}($2));

-- name: drop_pages_beside
-- The participant's pages that are not among $2.
delete from index_pages where participant = $1 and key not in (select value from {strings_in}($2));

-- name: count_index_datasets
-- How many datasets one participant offers.
select count(*) from index_datasets where participant = $1;

-- name: search_index
-- A page of what matches $1 at the participants $2 with all the facets $3; where $4 = 1 behind the place
-- (score, participant, dataset) $5, $6, $7.
with matches as ({index_matches}),
page as (
  select d.number, d.participant, d.dataset_id, d.seen_at, m.score
  from matches m join index_datasets d on d.number = m.number
  where d.participant in (select value from {strings_in}($2))
    and (
      cast($3 as text) = '[]' or not exists (
        select 1 from {strings_in}({json_text_3}) as wanted
        where not exists (select 1 from index_facets f where f.number = d.number and f.facet = wanted.value)
      )
    )
    and (
      cast($4 as bigint) = 0 or m.score < cast($5 as bigint)
      or (m.score = cast($5 as bigint) and (d.participant, d.dataset_id) > (cast($6 as text), cast($7 as text)))
    )
  order by m.score desc, d.participant, d.dataset_id
  limit $8
)
select page.score, page.participant, page.seen_at, d.document
from page join index_documents d on d.number = page.number
order by page.score desc, page.participant, page.dataset_id;

-- name: count_index_facets
-- How many of all that matches (as in search_index), by participant and by what they count as together.
with matches as ({index_unscored})
select d.participant, d.counted, count(*) as hits
from matches m join index_datasets d on d.number = m.number
where d.participant in (select value from {strings_in}($2))
  and (
    cast($3 as text) = '[]' or not exists (
      select 1 from {strings_in}({json_text_3}) as wanted
      where not exists (select 1 from index_facets f where f.number = d.number and f.facet = wanted.value)
    )
  )
group by d.participant, d.counted;


-- replay guard ---------------------------------------------------------------------------------------------

-- name: claim_token
-- The first sight of a token id; no row when it was seen before.
insert into claimed_tokens (fingerprint, expires_at) values ($1, $2) on conflict (fingerprint) do nothing
returning 1;

-- name: forget_expired_tokens
-- Expired ids cannot be used any more: no need to remember them.
delete from claimed_tokens where expires_at <= $1;

-- name: count_claimed_tokens
-- How many ids are remembered.
select count(*) from claimed_tokens;
