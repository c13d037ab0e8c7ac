-- The embedded event log. `position` is (base + number of the appending transaction) * 2^20 + ordinal in it;
-- readers stop below the oldest transaction that is still open (queries.sql, piece end_of_log).

create table event_log (
  position bigint primary key,
  topic text collate "C" not null,
  at bigint not null,
  document text not null
);
create index event_log_by_topic on event_log (topic, position);
create index event_log_by_time on event_log (at);

-- `position` is the last one that the group has handled; `holder` is the member that receives
create table event_groups (
  topic text collate "C" not null,
  name text collate "C" not null,
  position bigint not null,
  holder text not null,
  lease_until bigint not null,
  primary key (topic, name)
);

-- one row; raised when the database was restored into a cluster whose transaction numbers are lower
create table event_log_base (
  only_row boolean primary key default true check (only_row),
  base bigint not null
);
insert into event_log_base (base) values (0);
