package database

import (
	"context"
	"database/sql"
	"time"

	"github.com/handoff-auth/handoff/shared/serving"
)

// An AuditRow is one row of the audit, as it is exported. Its names are a contract.
type AuditRow struct {
	ID       int64     `json:"id"`
	Time     time.Time `json:"time"`
	Event    string    `json:"event"`
	Subject  string    `json:"subject"`              // the user, or the client that calls for itself
	Session  string    `json:"session,omitempty"`    // the sid of its handoffs
	Handoff  string    `json:"handoff_id,omitempty"` // of a visit too
	Audience string    `json:"audience,omitempty"`
	Method   string    `json:"method,omitempty"`
	Expires  time.Time `json:"expires,omitzero"`
	Client   string    `json:"client,omitempty"` // that acts for the subject
	Grant    string    `json:"grant,omitempty"`  // by which it does
}

// exportBatch is how many rows are held at a time.
const exportBatch = 1000

// Audit calls each for all rows since a moment, oldest first, until one fails. Each batch
// is read by itself: no lock is held while each works, and what is written meanwhile may
// be there.
func (db *DB) Audit(ctx context.Context, since time.Time, each func(AuditRow) error) error {
	at, id := toMillis(since), int64(0)
	for {
		rows, err := db.auditAfter(ctx, at, id)
		if err != nil {
			return err
		}
		for _, row := range rows {
			if err := each(row); err != nil {
				return err
			}
			at, id = toMillis(row.Time), row.ID
		}
		if len(rows) < exportBatch {
			return nil
		}
	}
}

// auditAfter returns the rows that follow one, by time and id.
func (db *DB) auditAfter(ctx context.Context, at, id int64) ([]AuditRow, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	const query = `SELECT id, occurred_at, event, user_id, session, handoff_id, audience, method, expires_at, client_id, grant_id FROM audit
		WHERE (occurred_at, id) > ($1, $2) ORDER BY occurred_at, id LIMIT $3`
	rows, err := db.read.QueryContext(ctx, query, at, id, exportBatch)
	all, err := serving.Rows(rows, err, func() (r AuditRow, err error) {
		var occurred int64
		var session, handoff, audience, method, client, grant sql.NullString
		var expires sql.NullInt64
		err = rows.Scan(&r.ID, &occurred, &r.Event, &r.Subject, &session, &handoff, &audience, &method, &expires, &client, &grant)
		r.Time, r.Expires = fromMillis(occurred), fromNull(expires)
		r.Session, r.Handoff, r.Audience, r.Method = session.String, handoff.String, audience.String, method.String
		r.Client, r.Grant = client.String, grant.String
		return r, err
	})
	return all, wrap("reading the audit", err)
}

// Backup writes a copy of the database, as it is at one moment, to a new file, while
// servers go on. Only a SQLite file has it: PostgreSQL brings tools of its own.
func (db *DB) Backup(ctx context.Context, file string) error {
	if db.copyTo == nil {
		return errNotAFile
	}
	return wrap("copying the database", db.copyTo(ctx, file))
}
