package sqlreplay

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"strconv"
)

// Floor returns the greatest number of a trust list that Raise has kept for an
// issuer, or zero: with Raise, a Store is a trust.Floor.
func (s *Store) Floor(ctx context.Context, issuer string) (seq int64, err error) {
	if err := s.status.Load().err; err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	var text string
	err = s.config.DB.QueryRowContext(ctx, inTable(`SELECT kept FROM {table} WHERE mark = $1`, s.config.Table), floorOf(issuer)).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err == nil {
		seq, err = strconv.ParseInt(text, 10, 64)
	}
	if err != nil {
		return 0, fmt.Errorf("reading the trust list's number: %w", err)
	}
	return seq, nil
}

// Raise keeps seq for an issuer, unless a greater number is kept.
func (s *Store) Raise(ctx context.Context, issuer string, seq int64) error {
	if err := s.status.Load().err; err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	_, err := s.config.DB.ExecContext(ctx, inTable(`INSERT INTO {table} AS old VALUES ($1, $2, $3)
		ON CONFLICT (mark) DO UPDATE SET kept = EXCLUDED.kept WHERE old.kept::bigint < EXCLUDED.kept::bigint`, s.config.Table),
		floorOf(issuer), int64(math.MaxInt64), strconv.FormatInt(seq, 10))
	if err != nil {
		return fmt.Errorf("keeping the trust list's number: %w", err)
	}
	return nil
}

// floorOf is longer than a mark, and so never one.
func floorOf(issuer string) []byte {
	sum := sha256.Sum256([]byte("trust\x00" + issuer))
	return sum[:]
}
