package preflight

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// specimen is a temporary key of one type: how it is made and what is read to
// compare it where the DUMPs differ, as they do between versions.
type specimen struct {
	name string
	make [][]any // without the key: the second argument
	read []any
}

// many repeats arguments, so that the value gets the encoding of a large one.
func many(command string, n int, item func(int) []any) []any {
	args := []any{command}
	for i := range n {
		args = append(args, item(i)...)
	}
	return args
}

// specimens has each type, small and large, since they are encoded differently.
// There is no XREADGROUP, XCLAIM or PFCOUNT here: calls of them are counted to
// find writers past the proxy.
func specimens() []specimen {
	word := func(i int) string { return fmt.Sprintf("item-%d", i) }
	single := func(i int) []any { return []any{word(i)} }
	field := func(i int) []any { return []any{word(i), i} }
	scored := func(i int) []any { return []any{i, word(i)} }
	integer := func(i int) []any { return []any{i} }
	entries := func(n int) [][]any {
		var out [][]any
		for i := range n {
			out = append(out, []any{"XADD", fmt.Sprintf("%d-1", i+1), "field", word(i)})
		}
		return append(out, []any{"XGROUP", "CREATE", "readers", "1-1"})
	}
	long := strings.Repeat("crossfade ", 400)
	members := []any{"SORT", "ALPHA"}
	return []specimen{
		{"string", [][]any{{"SET", "a value"}}, []any{"GET"}},
		{"string", [][]any{{"SET", 12345}}, []any{"GET"}},
		{"string", [][]any{{"SET", long}}, []any{"GET"}},
		{"list", [][]any{many("RPUSH", 3, single)}, []any{"LRANGE", 0, -1}},
		{"list", [][]any{many("RPUSH", 1500, single)}, []any{"LRANGE", 0, -1}},
		{"set", [][]any{many("SADD", 3, integer)}, members},
		{"set", [][]any{many("SADD", 3, single)}, members},
		{"set", [][]any{many("SADD", 600, single)}, members},
		{"zset", [][]any{many("ZADD", 3, scored)}, []any{"ZRANGE", 0, -1, "WITHSCORES"}},
		{"zset", [][]any{many("ZADD", 300, scored)}, []any{"ZRANGE", 0, -1, "WITHSCORES"}},
		{"hash", [][]any{many("HSET", 3, field)}, []any{"HGETALL"}},
		{"hash", [][]any{many("HSET", 600, field)}, []any{"HGETALL"}},
		{"stream", entries(3), []any{"XRANGE", "-", "+"}},
		{"stream", entries(200), []any{"XRANGE", "-", "+"}},
		{"HyperLogLog", [][]any{many("PFADD", 3, single)}, []any{"GET"}},
		{"HyperLogLog", [][]any{many("PFADD", 3000, single)}, []any{"GET"}},
	}
}

// keyed puts the key where a command expects it.
func keyed(args []any, key string) []any {
	at := 1
	if args[0] == "XGROUP" {
		at = 2
	}
	return slices.Insert(slices.Clone(args), at, any(key))
}

// checkRestore proves that To takes From's values: a temporary key of each type
// is made on From, dumped, restored on To, compared, and removed on both.
func checkRestore(ctx context.Context, in *inspection) []Finding {
	from, to := in.from.pool.DB(in.probeDB(in.from)), in.to.pool.DB(in.probeDB(in.to))
	list := specimens()
	base := probeKey()
	keys := make([]string, len(list))
	for i := range list {
		keys[i] = fmt.Sprintf("%s:%d", base, i)
	}
	defer clean(ctx, from, keys...)
	defer clean(ctx, to, keys...)

	payloads, err := dumpAll(ctx, from, list, keys)
	var forbidden noDump
	if errors.As(err, &forbidden) {
		return one(warn("Grant it (see permissions), where that is possible; without it values are copied and compared command by command, which takes several times as long.",
			"%s: DUMP is not permitted, and values of modules' types cannot be had otherwise: %s", in.from, forbidden))
	}
	if err != nil {
		return one(unknown(in.from, "making temporary keys for the trial of DUMP and RESTORE", err))
	}
	clock, err := to.Time(ctx).Result()
	if err != nil {
		return one(unknown(in.to, "TIME", err))
	}
	restores := restoreAll(ctx, to, keys, payloads, clock.Add(probeTTL))
	refusals := make(map[string]string)
	var differ []string
	for i, cmd := range restores {
		err := cmd.Err()
		if err == nil {
			err = same(ctx, from, to, list[i], keys[i], payloads[i])
		}
		switch {
		case err == nil:
		case errors.Is(err, errDiffers):
			differ = append(differ, list[i].name)
		case !strings.Contains(err.Error(), "payload") && !strings.Contains(err.Error(), "Bad data format"):
			return one(restoreFailed(in, err))
		default:
			refusals[list[i].name] = err.Error()
		}
	}
	return one(restoreVerdict(in, len(list), refusals, slices.Compact(differ)))
}

func restoreVerdict(in *inspection, tried int, refusals map[string]string, differ []string) Finding {
	direction := fmt.Sprintf("%s (%s) → %s (%s)", in.from.name, in.from.info.product(), in.to.name, in.to.info.product())
	if len(differ) > 0 {
		return fail("Do not migrate between these two servers; please report this.",
			"%s: values of these types came out different after RESTORE: %s", direction, strings.Join(differ, ", "))
	}
	if len(refusals) > 0 {
		types := slices.Sorted(maps.Keys(refusals))
		return warn("Nothing has to be done: such values are copied command by command, which takes several times as long.",
			"%s: RESTORE refuses values of type %s (%s)", direction, strings.Join(types, ", "), refusals[types[0]])
	}
	return pass("%s: RESTORE takes all types (%d temporary keys: string, list, set, zset, hash, stream with group, HyperLogLog)", direction, tried)
}

func restoreFailed(in *inspection, err error) Finding {
	text := err.Error()
	switch {
	case refused(err):
		text, _, _ = strings.Cut(text, ", with args")
		return warn("Grant it (see permissions), where that is possible; without it values are copied command by command, which takes several times as long.",
			"%s: RESTORE is not permitted: %s", in.to, text)
	case strings.HasPrefix(text, "OOM"):
		return fail("Give it more memory (see memory).", "%s is out of memory and takes no keys: %v", in.to, err)
	case strings.HasPrefix(text, "READONLY"):
		return fail("Give the address of its master (see role).", "%s takes no writes: %v", in.to, err)
	case strings.HasPrefix(text, "MISCONF"), strings.HasPrefix(text, "NOREPLICAS"):
		return fail("Mend what the server complains about.", "%s takes no writes: %v", in.to, err)
	case strings.Contains(text, "out of range"):
		return fail("Correct the map (see databases).", "%s: the target database does not exist: %v", in.to, err)
	}
	return unknown(in.to, "RESTORE of temporary keys", err)
}

// dumpAll makes the keys and returns their DUMPs.
func dumpAll(ctx context.Context, c *redis.Client, list []specimen, keys []string) ([]string, error) {
	ctx, cancel := shielded(ctx)
	defer cancel()
	dumps := make([]*redis.StringCmd, len(list))
	cmds, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, s := range list {
			for _, args := range s.make {
				p.Do(ctx, keyed(args, keys[i])...)
			}
			p.Expire(ctx, keys[i], probeTTL)
			dumps[i] = p.Dump(ctx, keys[i])
		}
		return nil
	})
	for _, cmd := range cmds {
		switch err := cmd.Err(); {
		case err == nil:
		case cmd.Name() == "dump" && refused(err):
			text, _, _ := strings.Cut(err.Error(), ", with args")
			return nil, noDump(text)
		default:
			return nil, fmt.Errorf("%s of a temporary key: %w", strings.ToUpper(cmd.Name()), err)
		}
	}
	if err != nil {
		return nil, err
	}
	payloads := make([]string, len(list))
	for i, d := range dumps {
		payloads[i] = d.Val()
	}
	return payloads, nil
}

func restoreAll(ctx context.Context, c *redis.Client, keys, payloads []string, until time.Time) []*redis.Cmd {
	ctx, cancel := shielded(ctx)
	defer cancel()
	out := make([]*redis.Cmd, len(keys))
	_, _ = c.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, key := range keys {
			out[i] = p.Do(ctx, "RESTORE", key, until.UnixMilli(), payloads[i], "REPLACE", "ABSTTL")
		}
		return nil // each command has its own error
	})
	return out
}

// noDump is the server's refusal of DUMP.
type noDump string

func (e noDump) Error() string { return string(e) }

var errDiffers = errors.New("the value differs")

// same compares a key on both sides: its DUMP, and where that differs its content.
func same(ctx context.Context, from, to *redis.Client, s specimen, key, payload string) error {
	there, err := to.Dump(ctx, key).Result()
	if err != nil && !errors.Is(err, redis.Nil) && !refused(err) {
		return err
	}
	if there != payload {
		left, err := from.Do(ctx, keyed(s.read, key)...).Result()
		if err != nil {
			return err
		}
		right, err := to.Do(ctx, keyed(s.read, key)...).Result()
		if errors.Is(err, redis.Nil) {
			return errDiffers
		}
		if err != nil {
			return err
		}
		if s.name == "hash" {
			left, right = sortedWords(left), sortedWords(right)
		}
		if fmt.Sprint(left) != fmt.Sprint(right) {
			return errDiffers
		}
	}
	ttl, err := to.PTTL(ctx, key).Result()
	if err != nil {
		return err
	}
	if ttl <= 0 || ttl > probeTTL+time.Second {
		return errDiffers
	}
	return nil
}

// sortedWords makes the reply of HGETALL comparable: the order is the server's own.
func sortedWords(reply any) any {
	list, _ := reply.([]any)
	var out []string
	for i := 0; i+1 < len(list); i += 2 {
		out = append(out, fmt.Sprint(list[i], "=", list[i+1]))
	}
	slices.Sort(out)
	return out
}
