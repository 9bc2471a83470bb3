package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// SeatKey names, on both servers, the coordinator that may change anything there.
const SeatKey = "crossfade:seat"

// Seat is a coordinator. Of two the one with the higher token counts; of two that have
// taken the same token at the same time, either, as long as both know which.
type Seat struct {
	Token  uint64 `json:"token"`
	Holder string `json:"holder"` // a name that no other process has
	// Migration is the id of the holder's; "": an older version's, which did not say.
	Migration string `json:"migration,omitempty"`
}

// After reports whether s counts more than o.
func (s Seat) After(o Seat) bool {
	if c := cmp.Compare(s.Token, o.Token); c != 0 {
		return c > 0
	}
	return s.Holder > o.Holder
}

func (s Seat) String() string { return fmt.Sprintf("%s with token %d", s.Holder, s.Token) }

// ParseSeat reads the value of SeatKey. What it cannot read is nobody's.
func ParseSeat(value string) (s Seat, ok bool) {
	err := json.Unmarshal([]byte(value), &s)
	return s, err == nil && s.Holder != ""
}

// LoadSeat reads who has the seat; ok is false when nobody has.
func LoadSeat(ctx context.Context, c redis.Cmdable) (s Seat, ok bool, err error) {
	value, err := c.Get(ctx, SeatKey).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return Seat{}, false, fmt.Errorf("reading %s: %w", SeatKey, err)
	}
	s, ok = ParseSeat(value)
	return s, ok, nil
}

// TakeSeat gives s the seat, unless another one that counts more has it (ErrSuperseded).
// It may be repeated.
func TakeSeat(ctx context.Context, c *redis.Client, s Seat) error {
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("writing %s: %w", SeatKey, err)
	}
	for {
		err := c.Watch(ctx, func(tx *redis.Tx) error {
			there, ok, err := LoadSeat(ctx, tx)
			switch {
			case err != nil:
				return err
			case ok && there == s:
				return nil
			case ok && there.Holder != s.Holder && there.After(s):
				return fmt.Errorf("%w: it is %s", ErrSuperseded, there)
			}
			_, err = tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
				p.Set(ctx, SeatKey, text, 0)
				return nil
			})
			return err
		}, SeatKey)
		if errors.Is(err, redis.TxFailedErr) { // somebody else was faster: who counts more?
			continue
		}
		if err != nil {
			return fmt.Errorf("taking %s: %w", SeatKey, err)
		}
		return nil
	}
}
