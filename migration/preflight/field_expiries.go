package preflight

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"
)

// checkFieldExpiries looks whether hashes have fields that expire, and To knows no such
// thing.
func checkFieldExpiries(ctx context.Context, in *inspection) []Finding {
	from, err := knowsFieldExpiry(ctx, in.from)
	if err != nil {
		return one(unknown(in.from, "asking for the expiry of hash fields", err))
	}
	if !from {
		return one(pass("%s: hash fields have no expiry there", in.from))
	}
	to, err := knowsFieldExpiry(ctx, in.to)
	if err != nil {
		return one(unknown(in.to, "asking for the expiry of hash fields", err))
	}
	if to {
		return one(pass("both servers know the expiry of hash fields"))
	}
	var n int64
	for db, k := range in.from.info.volatileFields() {
		if slices.Contains(in.databasesOf(in.from), db) {
			n += k
		}
	}
	const choice = "Choose another server, remove these expiries (HPERSIST), or set sync.field_expiries: drop to copy such keys without them."
	switch {
	case in.DropFieldExpiries:
		return one(warn("Make sure that nobody relies on them.",
			"%s knows no expiry of hash fields: %s of the %s will be copied without (sync.field_expiries: drop), and their fields stay for ever", in.to, plural(n, "hash", "hashes"), in.FromName))
	case n == 0:
		return one(warn("Nothing has to be done as long as nobody uses HEXPIRE and the like; such a key cannot be copied, and a cutover is refused then.",
			"%s knows no expiry of hash fields; the %s does, but no hash has one now", in.to, in.FromName))
	case in.stage == StageCopy: // the rest can be copied
		return one(warn(choice, "%s knows no expiry of hash fields: %s of the %s cannot be copied as they are, and no cutover can be made", in.to, plural(n, "hash", "hashes"), in.FromName))
	}
	return one(fail(choice, "%s knows no expiry of hash fields: %s of the %s cannot be copied as they are", in.to, plural(n, "hash", "hashes"), in.FromName))
}

// knowsFieldExpiry asks for one of a key that is not there. A server that forbids the
// command knows it.
func knowsFieldExpiry(ctx context.Context, s *server) (bool, error) {
	err := s.client().Do(ctx, "HPEXPIRETIME", probeKey(), "FIELDS", 1, "f").Err()
	var reply redis.Error
	switch {
	case err == nil, errors.Is(err, redis.Nil):
		return true, nil
	case !errors.As(err, &reply):
		return false, fmt.Errorf("HPEXPIRETIME: %w", err)
	}
	return classify(err) != noSuch, nil
}
