"""Backups of all that cannot be made again, and the way back from one.

*Order.* Postgres first, then the rest: archived segments, repositories, outboxes, configuration. An agent puts its commit
behind a ref that never moves and reports it then; a segment is written and then leaves Postgres. So whatever an event
of the backup names was there before the event, and is in what was copied after it.

*Postgres.* Ours as a base backup: the whole cluster with its WAL, which also is what a restore to any later moment begins
with. Yours as a dump of the tenant's ledger: a base backup would hold your other databases, needs a right that
services seldom give, and could only be restored over all of your server.

*JetStream* is a copy of Postgres and not in a backup. What it holds after a restore to the past is the future of a life
that is given up, which is why a restore begins a new epoch: relays replace the stream, and every lease is void.

*Whole or not.* The manifest names every file with its sha256. It is written last, so that a folder without one is the
rest of a backup that was interrupted.
"""
