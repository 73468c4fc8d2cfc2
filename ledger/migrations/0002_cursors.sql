-- How far a reaction has come whose effect lies outside the database and is harmless to repeat (branches in Git).

CREATE TABLE cursors (
    name     text   PRIMARY KEY,
    position bigint NOT NULL
);
