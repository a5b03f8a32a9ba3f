package redisreplay

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"

	"github.com/redis/rueidis"
)

// raiseScript keeps the greater number: all replicas follow the same lists.
const raiseScript = `
local kept = redis.call('GET', KEYS[1])
if not kept or tonumber(ARGV[1]) > tonumber(kept) then redis.call('SET', KEYS[1], ARGV[1]) end
return 1`

// Floor returns the greatest number of a trust list that Raise has kept for an
// issuer, or zero: with Raise, a Store is a trust.Floor.
func (s *Store) Floor(ctx context.Context, issuer string) (seq int64, err error) {
	err = s.ask(ctx, func(ctx context.Context, client rueidis.Client) error {
		seq, err = client.Do(ctx, client.B().Get().Key(s.keys().floor(issuer)).Build()).AsInt64()
		if rueidis.IsRedisNil(err) {
			return nil
		}
		return err
	})
	return seq, err
}

// Raise keeps seq for an issuer, unless a greater number is kept.
func (s *Store) Raise(ctx context.Context, issuer string, seq int64) error {
	return s.ask(ctx, func(ctx context.Context, client rueidis.Client) error {
		return client.Do(ctx, client.B().Eval().Script(raiseScript).Numkeys(1).Key(s.keys().floor(issuer)).
			Arg(strconv.FormatInt(seq, 10)).Build()).Error()
	})
}

// ask has a connection of its own, to a server that was checked.
func (s *Store) ask(ctx context.Context, what func(context.Context, rueidis.Client) error) error {
	l, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer l.close()
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	if err := what(ctx, l.client); err != nil {
		return fmt.Errorf("asking the Redis: %w", err)
	}
	return nil
}

func (k keys) floor(issuer string) string {
	sum := sha256.Sum256([]byte(issuer))
	return string(k) + "trust:" + base64.RawURLEncoding.EncodeToString(sum[:16])
}
