package linear

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// kind is one sort of object: its operations, and what a single server would make of them.
type kind struct {
	name  string
	init  any
	verbs []*verb
}

// verb is one operation.
type verb struct {
	name string
	// run does it. The error is of an outcome that is not known.
	run func(ctx context.Context, c *redis.Client, keys []string, value int64) (answer, error)
	// step says what the state is after it, and what it answers. One that cannot tell by
	// itself looks at what was answered.
	step func(state any, value int64, said answer) (next any, want answer)
}

// request is an operation that a client does.
type request struct {
	verb  *verb
	value int64 // no two are the same
}

func (r request) do(ctx context.Context, c *redis.Client, keys []string) (answer, error) {
	return r.verb.run(ctx, c, keys, r.value)
}

// answer is what it was told. Those that are alike are equal.
type answer struct {
	unknown bool
	text    string
	n, m    int64
	none    bool // nil was said
}

func (a answer) String() string {
	switch {
	case a.unknown:
		return "nobody knows what"
	case a.none:
		return "nil"
	case a.text != "":
		return strconv.Quote(a.text)
	}
	return fmt.Sprintf("%d and %d", a.n, a.m)
}

// choose draws an operation without its value.
func (k *kind) choose(rng *rand.Rand) request { return request{verb: k.verbs[rng.IntN(len(k.verbs))]} }

// step judges one operation.
func (k *kind) step(state any, r request, said answer) (bool, any) {
	next, want := r.verb.step(state, r.value, said)
	if said.unknown {
		return true, next
	}
	return said == want, next
}

func describe(r request, said answer) string {
	return fmt.Sprintf("%s with %d, which was answered %s", r.verb.name, r.value, said)
}

var kinds = []*kind{registers, counters, lists, sets, pairs}

// members is how many members a set may have.
const members = 16

var okay = answer{text: "OK"}

// registers hold what was written last.
var registers = &kind{name: "register", init: "", verbs: []*verb{
	{"GET", func(ctx context.Context, c *redis.Client, keys []string, _ int64) (answer, error) {
		return textOr(c.Get(ctx, keys[0]).Result())
	}, func(state any, _ int64, _ answer) (any, answer) { return state, held(state) }},
	{"SET", func(ctx context.Context, c *redis.Client, keys []string, value int64) (answer, error) {
		return textOr(c.Set(ctx, keys[0], value, 0).Result())
	}, func(_ any, value int64, _ answer) (any, answer) { return strconv.FormatInt(value, 10), okay }},
	{"SET … GET", func(ctx context.Context, c *redis.Client, keys []string, value int64) (answer, error) {
		return textOr(c.SetArgs(ctx, keys[0], value, redis.SetArgs{Get: true}).Result())
	}, func(state any, value int64, _ answer) (any, answer) { return strconv.FormatInt(value, 10), held(state) }},
	{"DEL", func(ctx context.Context, c *redis.Client, keys []string, _ int64) (answer, error) {
		return number(c.Del(ctx, keys[0]).Result())
	}, func(state any, _ int64, _ answer) (any, answer) {
		if state == "" {
			return "", answer{}
		}
		return "", answer{n: 1}
	}},
	{"EVAL of an exchange", func(ctx context.Context, c *redis.Client, keys []string, value int64) (answer, error) {
		return textOr(exchange.Run(ctx, c, keys[:1], value).Text())
	}, func(state any, value int64, _ answer) (any, answer) { return strconv.FormatInt(value, 10), held(state) }},
	{"WATCH, GET and a SET in MULTI", watchedSet, func(state any, value int64, said answer) (any, answer) {
		switch {
		case said.unknown:
			return strconv.FormatInt(value, 10), said
		case said.m == 0: // somebody may have changed it meanwhile, or the switch has
			return state, said
		}
		want := held(state)
		want.m = 1
		return strconv.FormatInt(value, 10), want
	}},
}}

var exchange = redis.NewScript(`local old = redis.call('GET', KEYS[1]); redis.call('SET', KEYS[1], ARGV[1]); return old`)

// watchedSet answers what was read, and whether the transaction ran.
func watchedSet(ctx context.Context, c *redis.Client, keys []string, value int64) (answer, error) {
	var read answer
	err := c.Watch(ctx, func(tx *redis.Tx) error {
		var err error
		if read, err = textOr(tx.Get(ctx, keys[0]).Result()); err != nil {
			return err
		}
		_, err = tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Set(ctx, keys[0], value, 0)
			return nil
		})
		return err
	}, keys[0])
	switch {
	case errors.Is(err, redis.TxFailedErr):
		return read, nil
	case err != nil:
		return answer{}, err
	}
	read.m = 1
	return read, nil
}

// counters count.
var counters = &kind{name: "counter", init: int64(0), verbs: []*verb{
	{"INCRBY", func(ctx context.Context, c *redis.Client, keys []string, value int64) (answer, error) {
		return number(c.IncrBy(ctx, keys[0], value).Result())
	}, func(state any, value int64, _ answer) (any, answer) {
		n := state.(int64) + value
		return n, answer{n: n}
	}},
	{"DECR", func(ctx context.Context, c *redis.Client, keys []string, _ int64) (answer, error) {
		return number(c.Decr(ctx, keys[0]).Result())
	}, func(state any, _ int64, _ answer) (any, answer) {
		n := state.(int64) - 1
		return n, answer{n: n}
	}},
	{"GET as a number", func(ctx context.Context, c *redis.Client, keys []string, _ int64) (answer, error) {
		n, err := c.Get(ctx, keys[0]).Int64()
		if errors.Is(err, redis.Nil) {
			err = nil
		}
		return answer{n: n}, err
	}, func(state any, _ int64, _ answer) (any, answer) { return state, answer{n: state.(int64)} }},
}}

// longest is from which length on nothing is pushed to a list, so that it stays short.
const longest = 12

// push adds to a list unless that is long already, and answers how long it is then.
var push = redis.NewScript(`if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[2]) then return -1 end
return redis.call('RPUSH', KEYS[1], ARGV[1])`)

// lists are queues. Their state is the elements, each with a space behind it.
var lists = &kind{name: "list", init: "", verbs: []*verb{
	{"RPUSH", func(ctx context.Context, c *redis.Client, keys []string, value int64) (answer, error) {
		return number(push.Run(ctx, c, keys[:1], value, longest).Int64())
	}, func(state any, value int64, _ answer) (any, answer) {
		n := int64(strings.Count(state.(string), " "))
		if n >= longest {
			return state, answer{n: -1}
		}
		return state.(string) + strconv.FormatInt(value, 10) + " ", answer{n: n + 1}
	}},
	{"LPOP", func(ctx context.Context, c *redis.Client, keys []string, _ int64) (answer, error) {
		return textOr(c.LPop(ctx, keys[0]).Result())
	}, popped},
	{"BLPOP", func(ctx context.Context, c *redis.Client, keys []string, _ int64) (answer, error) {
		pair, err := c.Do(ctx, "BLPOP", keys[0], "0.02").StringSlice() // BLPop makes whole seconds of it
		if err != nil || len(pair) < 2 {
			return textOr("", err)
		}
		return answer{text: pair[1]}, nil
	}, popped},
	{"LRANGE", func(ctx context.Context, c *redis.Client, keys []string, _ int64) (answer, error) {
		all, err := c.LRange(ctx, keys[0], 0, -1).Result()
		return answer{text: strings.Join(append(all, ""), " "), none: err == nil && len(all) == 0}, err
	}, func(state any, _ int64, _ answer) (any, answer) { return state, held(state) }},
}}

func popped(state any, _ int64, _ answer) (any, answer) {
	first, rest, found := strings.Cut(state.(string), " ")
	if !found {
		return state, answer{none: true}
	}
	return rest, answer{text: first}
}

// sets have few possible members. Their state is a bit for each.
var sets = &kind{name: "set", init: uint64(0), verbs: []*verb{
	{"SADD", func(ctx context.Context, c *redis.Client, keys []string, value int64) (answer, error) {
		return number(c.SAdd(ctx, keys[0], value%members).Result())
	}, func(state any, value int64, _ answer) (any, answer) {
		s := state.(uint64)
		bit := uint64(1) << (value % members)
		return s | bit, answer{n: int64(bits.OnesCount64(bit &^ s))}
	}},
	{"SREM", func(ctx context.Context, c *redis.Client, keys []string, value int64) (answer, error) {
		return number(c.SRem(ctx, keys[0], value%members).Result())
	}, func(state any, value int64, _ answer) (any, answer) {
		s := state.(uint64)
		bit := uint64(1) << (value % members)
		return s &^ bit, answer{n: int64(bits.OnesCount64(bit & s))}
	}},
	{"SMEMBERS", func(ctx context.Context, c *redis.Client, keys []string, _ int64) (answer, error) {
		list, err := c.SMembers(ctx, keys[0]).Result()
		var s uint64
		for _, one := range list {
			n, perr := strconv.ParseUint(one, 10, 6)
			if perr != nil {
				return answer{}, perr
			}
			s |= 1 << n
		}
		return answer{n: int64(s)}, err
	}, func(state any, _ int64, _ answer) (any, answer) { return state, answer{n: int64(state.(uint64))} }},
}}

// pairs are two counters that change together.
var pairs = &kind{name: "pair", init: [2]int64{}, verbs: []*verb{
	{"MULTI with two INCRBY", func(ctx context.Context, c *redis.Client, keys []string, value int64) (answer, error) {
		var a, b *redis.IntCmd
		_, err := c.TxPipelined(ctx, func(p redis.Pipeliner) error {
			a, b = p.IncrBy(ctx, keys[0], value), p.DecrBy(ctx, keys[1], value)
			return nil
		})
		if err != nil {
			return answer{}, err
		}
		return answer{n: a.Val(), m: b.Val()}, nil
	}, func(state any, value int64, _ answer) (any, answer) {
		s := state.([2]int64)
		s[0] += value
		s[1] -= value
		return s, answer{n: s[0], m: s[1]}
	}},
	{"MGET", func(ctx context.Context, c *redis.Client, keys []string, _ int64) (answer, error) {
		list, err := c.MGet(ctx, keys...).Result()
		if err != nil {
			return answer{}, err
		}
		var two [2]int64
		for i, one := range list {
			if text, ok := one.(string); ok {
				if two[i], err = strconv.ParseInt(text, 10, 64); err != nil {
					return answer{}, err
				}
			}
		}
		return answer{n: two[0], m: two[1]}, nil
	}, func(state any, _ int64, _ answer) (any, answer) {
		s := state.([2]int64)
		return s, answer{n: s[0], m: s[1]}
	}},
}}

// held is the answer of a read.
func held(state any) answer { return answer{text: state.(string), none: state == ""} }

func textOr(text string, err error) (answer, error) {
	if errors.Is(err, redis.Nil) {
		return answer{none: true}, nil
	}
	return answer{text: text}, err
}

func number(n int64, err error) (answer, error) { return answer{n: n}, err }
