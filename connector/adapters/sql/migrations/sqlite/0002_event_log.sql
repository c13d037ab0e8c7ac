-- The embedded event log. `position` is in order of commit, because there is one writer.

create table event_log (
  position integer primary key autoincrement,
  topic text not null,
  at integer not null,
  document text not null
) strict;
create index event_log_by_topic on event_log (topic, position);
create index event_log_by_time on event_log (at);

-- `position` is the last one that the group has handled; `holder` is the member that receives
create table event_groups (
  topic text not null,
  name text not null,
  position integer not null,
  holder text not null,
  lease_until integer not null,
  primary key (topic, name)
) strict, without rowid;
