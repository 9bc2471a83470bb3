package value

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

const (
	smallMost  = 512       // elements of a key that ByType copies
	smallBytes = 64 << 10  // of a string
	smallUsage = 512 << 10 // bytes of memory on the source, where it tells
	roundUsage = 2 << 20   // … of the keys that are read at a time, about
)

// ErrOneByOne says that ByType leaves a key to Logical: it is large, a stream, of a
// type that is not known, or changes just now. Nothing was changed on the target.
var ErrOneByOne = errors.New("to be copied by itself")

// ByType copies many small keys by type, some hundred with each round trip: for when
// RESTORE is refused. One serves one direction between two servers, any of their
// databases, and is safe for concurrent use; a key must not be in two calls at a
// time. The zero value is ready.
type ByType struct {
	Manner Manner // set before first use

	old     atomic.Bool // source has no PEXPIRETIME for us: before 7.0, or forbidden
	without atomic.Bool // source knows no expiry of hash fields

	noUnlink atomic.Bool // target: before 4.0, or forbidden
	noFields atomic.Bool // target knows no expiry of hash fields, or forbids them
}

// small is a key on its way.
type small struct {
	at     int // in keys
	usage  int64
	key    string
	kind   string
	left   []*redis.Cmd // what tells the expiry
	value  *redis.Cmd
	elems  []string
	expire int64
	fields []int64 // expiries, for a hash that has some
	drops  int     // of them that the target is not to have
	lost   bool    // it cannot be what it is on the source
	cmds   []*redis.Cmd
}

// drop leaves the fields' expiries behind.
func (s *small) drop() {
	for _, ms := range s.fields {
		if ms > 0 {
			s.drops++
		}
	}
	s.fields = nil
}

// Copy brings keys from src to dst as they are at this moment, absolute expiry
// included; a key that src does not have is removed on dst. Each key changes on dst
// in one step. On src expiry and value are read in two, since MULTI and EXEC would be
// as much work as both: a key that changes meanwhile ends as a mixture, and is to be
// copied again by who has seen the change.
//
// The outcomes are in the order of keys; those with ErrOneByOne are for Logical. An
// error means that a connection or ctx ended: outcomes whose outcome is unknown
// carry it.
func (b *ByType) Copy(ctx context.Context, src, dst *redis.Client, keys []string) ([]Outcome, error) {
	out := make([]Outcome, len(keys))
	err := b.copyInto(ctx, src, dst, keys, out)
	if err != nil {
		for i := range out {
			out[i] = Outcome{Err: err}
		}
	}
	return out, err
}

func (b *ByType) copyInto(ctx context.Context, src, dst *redis.Client, keys []string, out []Outcome) error {
	kinds := make([]*redis.StatusCmd, len(keys))
	usage := make([]*redis.Cmd, len(keys))
	p := src.Pipeline()
	for i, k := range keys {
		kinds[i] = p.Type(ctx, k)
		usage[i] = p.Do(ctx, "MEMORY", "USAGE", k)
	}
	if err := exec(ctx, p); err != nil {
		return fmt.Errorf("asking %s for the types of %d keys: %w", at(src), len(keys), err)
	}
	var list []*small
	for i, k := range keys {
		out[i].Err = ErrOneByOne
		size, err := usage[i].Int64()
		if kinds[i].Err() != nil || err == nil && size > smallUsage {
			continue
		}
		if b.Manner.outside(k, kinds[i].Val()) {
			out[i].Err = ErrOutside
			continue
		}
		if kind := kinds[i].Val(); kind == "none" || reading(kind, k) != nil {
			list = append(list, &small{at: i, key: k, kind: kind, usage: size})
		}
	}
	for len(list) > 0 {
		n, sum := 0, int64(0)
		for ; n < len(list) && sum < roundUsage; n++ {
			sum += list[n].usage
		}
		some, err := b.read(ctx, src, list[:n])
		if err != nil {
			return fmt.Errorf("reading %d keys from %s: %w", n, at(src), err)
		}
		if err := b.write(ctx, dst, some, out); err != nil {
			return fmt.Errorf("writing %d keys to %s: %w", n, at(dst), err)
		}
		list = list[n:]
	}
	return nil
}

// reading returns the command that shows a small key whole, nil where there is none.
func reading(kind, key string) []any {
	switch kind {
	case "string":
		return []any{"GETRANGE", key, 0, smallBytes - 1}
	case "list":
		return []any{"LRANGE", key, 0, smallMost - 1}
	case "set":
		return []any{"SSCAN", key, 0, "COUNT", smallMost}
	case "zset":
		return []any{"ZSCAN", key, 0, "COUNT", smallMost}
	case "hash":
		return []any{"HSCAN", key, 0, "COUNT", smallMost}
	}
	return nil
}

// read reads expiry and value of each key, and returns those that it has whole.
func (b *ByType) read(ctx context.Context, src *redis.Client, list []*small) ([]*small, error) {
	old := b.old.Load()
	p := src.Pipeline()
	for _, s := range list {
		switch {
		case s.kind == "none":
			continue
		case old:
			s.left = []*redis.Cmd{p.Do(ctx, "MULTI"), p.Do(ctx, "PTTL", s.key), p.Do(ctx, "TIME"), p.Do(ctx, "EXEC")}
		default:
			s.left = []*redis.Cmd{p.Do(ctx, "PEXPIRETIME", s.key)}
		}
		s.value = p.Do(ctx, reading(s.kind, s.key)...)
	}
	if err := exec(ctx, p); err != nil {
		return nil, err
	}
	whole := list[:0]
	for _, s := range list {
		if s.kind != "none" && !old && lacks(s.left[0].Err()) {
			b.old.Store(true)
			continue // this once by itself
		}
		if s.kind == "none" || s.parse() {
			whole = append(whole, s)
		}
	}
	return b.fieldExpiries(ctx, src, whole)
}

// parse reads the answers. False is a key that is not small, not whole, or not to be
// read.
func (s *small) parse() bool {
	answer, err := s.left[len(s.left)-1].Result()
	if err != nil || s.value.Err() != nil {
		return false
	}
	var ok bool
	if two, transaction := answer.([]any); !transaction {
		s.expire, ok = answer.(int64)
	} else if ok = len(two) == 2; ok {
		s.expire, err = absolute(two[0], two[1])
	}
	if !ok || err != nil {
		return false
	}
	if s.expire == noKey { // it has gone since
		return false
	}
	switch v := s.value.Val().(type) {
	case string:
		s.elems = []string{v}
		return s.kind == "string" && v != "" && len(v) < smallBytes // "" may be one that has gone
	case []any:
		if s.kind == "list" {
			s.elems, err = texts(v)
			return err == nil && len(v) > 0 && len(v) < smallMost
		}
		if len(v) != 2 || text(v[0]) != "0" {
			return false
		}
		s.elems, err = texts(v[1])
		return err == nil && len(s.elems) > 0
	}
	return false
}

// fieldExpiries asks for those of the hashes. Without an answer for a hash it is left
// out.
func (b *ByType) fieldExpiries(ctx context.Context, src *redis.Client, list []*small) ([]*small, error) {
	if b.without.Load() {
		return list, nil
	}
	p := src.Pipeline()
	asked := make(map[*small]*redis.Cmd)
	for _, s := range list {
		if s.kind != "hash" {
			continue
		}
		args := make([]any, 0, 4+len(s.elems)/2)
		args = append(args, "HPEXPIRETIME", s.key, "FIELDS", strconv.Itoa(len(s.elems)/2))
		for i := 0; i+1 < len(s.elems); i += 2 {
			args = append(args, s.elems[i])
		}
		asked[s] = p.Do(ctx, args...)
	}
	if err := exec(ctx, p); err != nil {
		return nil, err
	}
	whole := list[:0]
	for _, s := range list {
		c := asked[s]
		switch {
		case c == nil:
		case unknownCommand(c.Err()):
			b.without.Store(true)
		default:
			at, err := c.Slice()
			if err != nil || len(at) != len(s.elems)/2 {
				continue
			}
			when := make([]int64, len(at))
			for i, v := range at {
				when[i], _ = v.(int64)
			}
			if s.elems, when = alive(s.elems, when); len(s.elems) == 0 {
				continue
			}
			if slices.ContainsFunc(when, func(ms int64) bool { return ms > 0 }) {
				s.fields = when
			}
		}
		whole = append(whole, s)
	}
	return whole, nil
}

// write puts the keys into place in one round trip, each in one step. The old
// value goes first, so that none of its elements stay.
func (b *ByType) write(ctx context.Context, dst *redis.Client, list []*small, out []Outcome) error {
	unlink := "UNLINK"
	if b.noUnlink.Load() {
		unlink = "DEL"
	}
	p := dst.Pipeline()
	for _, s := range list {
		do := func(args ...any) { s.cmds = append(s.cmds, p.Do(ctx, args...)) }
		switch {
		case s.kind == "none":
			do(unlink, s.key)
		case s.fields != nil && b.noFields.Load() && !b.Manner.DropFieldExpiries:
			s.lost = true
		case s.kind == "string" && s.expire == noExpiry:
			do("SET", s.key, s.elems[0])
		default:
			if s.fields != nil && b.noFields.Load() {
				s.drop()
			}
			do("MULTI")
			s.put(unlink, do)
			if s.expire != noExpiry {
				do("PEXPIREAT", s.key, s.expire)
			}
			do("EXEC")
		}
	}
	if err := exec(ctx, p); err != nil {
		return err
	}
	for _, s := range list {
		out[s.at] = s.outcome()
		b.learn(s)
		if err := out[s.at].Err; err != nil && !errors.Is(err, ErrOneByOne) {
			out[s.at].Err = fmt.Errorf("writing %s key %q to %s: %w", s.kind, s.key, at(dst), err)
		}
	}
	return nil
}

// put says what makes the value. SET removes an old one by itself, of any type.
func (s *small) put(unlink string, do func(args ...any)) {
	if s.kind != "string" {
		do(unlink, s.key)
	}
	switch s.kind {
	case "string":
		do("SET", s.key, s.elems[0])
	case "list":
		do(anys(s.elems, "RPUSH", s.key)...)
	case "set":
		do(anys(s.elems, "SADD", s.key)...)
	case "zset":
		args := make([]any, 2, 2+len(s.elems))
		args[0], args[1] = "ZADD", s.key
		for i := 0; i+1 < len(s.elems); i += 2 {
			args = append(args, s.elems[i+1], s.elems[i])
		}
		do(args...)
	case "hash":
		do(anys(s.elems, "HSET", s.key)...)
		for i, ms := range s.fields {
			if ms > 0 {
				do("HPEXPIREAT", s.key, ms, "FIELDS", 1, s.elems[2*i])
			}
		}
	}
}

// learn remembers what was refused.
func (b *ByType) learn(s *small) {
	for _, c := range s.cmds {
		switch {
		case !lacks(c.Err()):
		case c.Name() == "unlink":
			b.noUnlink.Store(true)
		case c.Name() == "hpexpireat":
			b.noFields.Store(true)
		}
	}
}

// outcome reads the answers. A command that the target does not run for us makes it
// run none of them, and Logical knows what to do then.
func (s *small) outcome() Outcome {
	if s.lost {
		return Outcome{Err: ErrFieldExpiry}
	}
	for _, c := range s.cmds {
		switch err := c.Err(); {
		case err == nil || errors.Is(err, redis.Nil):
		case lacks(err):
			return Outcome{Err: ErrOneByOne}
		default:
			return Outcome{Err: classify(err)}
		}
	}
	if s.kind == "none" {
		return Outcome{Removed: true}
	}
	if s.cmds[len(s.cmds)-1].Name() == "exec" {
		res, err := s.cmds[len(s.cmds)-1].Slice()
		if err != nil {
			return Outcome{Err: err}
		}
		for _, r := range res {
			if err, ok := r.(error); ok {
				return Outcome{Err: classify(err)}
			}
		}
	}
	return Outcome{Copied: true, Bytes: sum(s.elems), Dropped: s.drops}
}
