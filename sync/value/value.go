// Package value carries one key's value from one Redis to another, and says whether two keys are equal.
// It owns the commands that this takes and the temporary keys it writes under TempPrefix.
// It never asks why a key is copied, never chooses a database and never puts a value into an error or a log.
package value

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// TempPrefix begins the names of the keys that Logical writes before it
// renames them into place. They expire by themselves should we die meanwhile.
const TempPrefix = "crossfade:tmp:"

var (
	// ErrRestoreRefused says that the target does not take the source's DUMP
	// (another version, another encoding). Copy the key with Logical.
	ErrRestoreRefused = errors.New("target refuses the payload")
	// ErrTooBig says that a payload is too big for one RESTORE. It is an
	// ErrRestoreRefused too, as the cure is the same.
	ErrTooBig = fmt.Errorf("payload too big for one RESTORE: %w", ErrRestoreRefused)
	// ErrOutOfMemory says that the target is at its maxmemory.
	ErrOutOfMemory = errors.New("target is out of memory")
	// ErrType says that a value is of a type that cannot be copied by type.
	ErrType = errors.New("no copy by type for this type")

	// ErrElsewhere says that a key's slot of a cluster is with another node, or away for
	// the moment. Nothing was changed. It is an answer's error, so Unknown is false.
	ErrElsewhere = errors.New("slot is elsewhere")

	// errChanged says that a key changed under our hands in a way that needs
	// a new beginning (another type, a group that went away).
	errChanged = errors.New("key changed while it was read")
)

// Outcome says what became of one key. Exactly one of Copied, Same, Removed and Err
// is set.
type Outcome struct {
	Copied  bool  // the value is on the target, or was written with an expiry already past
	Same    bool  // the target had it already, and nothing was written
	Removed bool  // the source has no such key, and now neither has the target
	Bytes   int64 // size of what was sent, in bytes of payload
	Dropped int   // expiries of hash fields that the target does not have, see Manner
	Err     error // nothing was changed on the target, unless Unknown(Err)
}

// Changed reports whether a copy came to nothing because the key changed under it: it may be
// tried again.
func Changed(err error) bool { return errors.Is(err, errChanged) }

// Unknown reports whether err leaves open if the last command was run: it is no
// answer of a server, but a connection or a context that ended. Such a write may
// still lie in a socket and arrive later.
func Unknown(err error) bool {
	if err == nil || errors.Is(err, errChanged) || errors.Is(err, errMisfit) || errors.Is(err, ErrOpen) || errors.Is(err, ErrType) || errors.Is(err, ErrFieldExpiry) || errors.Is(err, ErrOutside) ||
		errors.Is(err, ErrRestoreRefused) || errors.Is(err, ErrOutOfMemory) {
		return false
	}
	var reply redis.Error
	return !errors.As(err, &reply)
}

// isReply reports whether err is an answer of the server.
func isReply(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply)
}

// says reports whether err is an answer of the server that contains text.
func says(err error, text string) bool {
	return isReply(err) && strings.Contains(strings.ToLower(err.Error()), text)
}

func unknownCommand(err error) bool {
	return says(err, "unknown command") || says(err, "unknown subcommand")
}

// lacks reports whether err is a server's answer that it does not run a command for
// us: it does not know it, or it was renamed or switched off, or an ACL rule or the
// service's provider forbids it.
func lacks(err error) bool {
	if !isReply(err) || says(err, "oom ") { // "OOM command not allowed when used memory …"
		return false
	}
	for _, sign := range []string{"unknown command", "unknown subcommand", "noperm", "not allowed", "is disabled", "not support", "not available", "no permission"} {
		if says(err, sign) {
			return true
		}
	}
	return false
}

// movedOn reports whether a reading command failed because the key is no longer
// what it was when we began.
func movedOn(err error) bool {
	return says(err, "wrongtype") || says(err, "nogroup") || says(err, "no such key")
}

// at names a server and a database for an error.
func at(c *redis.Client) string {
	o := c.Options()
	return o.Addr + " database " + strconv.Itoa(o.DB)
}

// Clustered reports whether a client is one of a whole cluster.
func Clustered(c *redis.Client) bool { return c.Options().Network == "cluster" }

// exec runs a pipeline and returns an error only when the answers are not all
// there. The commands' own errors are for the caller to look at, one by one:
// Exec returns but the first.
func exec(ctx context.Context, p redis.Pipeliner) error {
	if p.Len() == 0 {
		return nil
	}
	cmds, err := p.Exec(ctx)
	if err != nil && (!isReply(err) || !slices.ContainsFunc(cmds, func(c redis.Cmder) bool { return c.Err() != nil })) {
		return discreet(err) // of the latter kind is a connection that was refused: nobody was asked anything
	}
	for _, c := range cmds {
		if err := c.Err(); err != nil && !isReply(err) {
			return err
		}
	}
	return nil
}

// must is exec, and the first error of any command.
func must(ctx context.Context, p redis.Pipeliner) error {
	if p.Len() == 0 {
		return nil
	}
	cmds, err := p.Exec(ctx)
	if err != nil {
		return discreet(err)
	}
	for _, c := range cmds {
		if err := c.Err(); err != nil {
			return discreet(err)
		}
	}
	return nil
}

// answer is a server's error in our words.
type answer string

func (a answer) Error() string { return string(a) }
func (answer) RedisError()     {}

// discreet cuts the arguments off "unknown command 'X', with args beginning
// with: …": they may be a value.
func discreet(err error) error {
	if !says(err, ", with args") {
		return err
	}
	text, _, _ := strings.Cut(err.Error(), ", with args")
	return answer(text)
}

// remove deletes keys without stopping the server for the big ones.
func remove(ctx context.Context, c *redis.Client, key string) error {
	err := c.Unlink(ctx, key).Err()
	if lacks(err) {
		err = c.Del(ctx, key).Err()
	}
	if err != nil {
		return fmt.Errorf("removing key %q on %s: %w", key, at(c), err)
	}
	return nil
}

// noExpiry and noKey are PEXPIRETIME's answers.
const (
	noExpiry = -1
	noKey    = -2
)

// expireTime returns a key's expiry in milliseconds since 1970, noExpiry or noKey.
func expireTime(ctx context.Context, c *redis.Client, key string) (int64, error) {
	at, err := c.Do(ctx, "PEXPIRETIME", key).Int64()
	if err == nil || !lacks(err) {
		return at, err
	}
	p := c.TxPipeline()
	ttl := p.Do(ctx, "PTTL", key)
	now := p.Do(ctx, "TIME")
	if err := must(ctx, p); err != nil {
		return 0, err
	}
	return absolute(ttl.Val(), now.Val())
}

// absolute makes an absolute expiry of the answers to PTTL and TIME, for
// servers before 7.0. It is right to within a millisecond.
func absolute(pttl, now any) (int64, error) {
	left, ok := pttl.(int64)
	if !ok {
		return 0, fmt.Errorf("unexpected answer to PTTL: %T", pttl)
	}
	if left < 0 {
		return left, nil
	}
	ms, err := millis(now)
	return ExpiryAfter(ms, left), err
}

// ExpiryAfter returns when a key expires that has left to live at now, in milliseconds.
// What was asked one after the other may add up to more than the latest expiry there is.
func ExpiryAfter(now, left int64) int64 { return now + min(left, math.MaxInt64-now) }

// millis reads the answer to TIME.
func millis(now any) (int64, error) {
	parts, ok := now.([]any)
	if !ok || len(parts) != 2 {
		return 0, fmt.Errorf("unexpected answer to TIME: %T", now)
	}
	sec, err1 := strconv.ParseInt(text(parts[0]), 10, 64)
	usec, err2 := strconv.ParseInt(text(parts[1]), 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return 0, fmt.Errorf("unexpected answer to TIME: %w", err)
	}
	return time.Unix(sec, usec*1000).UnixMilli(), nil
}

// text reads a string or number of an untyped reply.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10)
	}
	return ""
}

// anys makes command arguments: words first, then keys or elements.
func anys(elems []string, words ...any) []any {
	args := make([]any, 0, len(words)+len(elems))
	args = append(args, words...)
	for _, e := range elems {
		args = append(args, e)
	}
	return args
}
