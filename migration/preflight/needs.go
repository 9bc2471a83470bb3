package preflight

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"
)

// role says at which server a command is needed: the one that is left, the one
// that is entered. For the way back each server needs what the other needs too;
// that is wanted, not needed.
type role int

const (
	roleFrom role = 1 << iota
	roleTo
	roleBoth = roleFrom | roleTo
)

// need is one command with arguments that change nothing but the probe key.
type need struct {
	at       role
	args     []any
	sub      bool    // args[1] is a subcommand
	since    version // not there before
	until    version // not used from then on
	optional bool    // the work goes on without, worse
	why      string  // said when it is missing
	noTry    bool    // only ACL DRYRUN may tell: running it would not be harmless
	tryOnly  bool    // only trying may tell
	channel  string  // that it wants, as an ACL rule names it
	try      func(context.Context, *redis.Client) error
}

func (n need) applies(s *server) bool {
	// Without INFO the version is unknown: ask for what old servers have as well.
	if n.until != (version{}) && s.up && !s.info.compatible().before(n.until) {
		return false
	}
	return n.since == version{} || s.up && !s.info.compatible().before(n.since)
}

// needs lists what we run, in an order in which trying out is harmless: SET makes
// the probe key a string, so the writes of other types after it are refused with
// WRONGTYPE, after their permission was checked.
func needs(key string) []need {
	const (
		logical = "values that RESTORE does not take"
		compare = "comparing the two sides"
		dump    = "the fast way to copy values"
		back    = "the fence and the switch"
		flush   = "FLUSHDB, FLUSHALL and SWAPDB through the proxy"
		soft    = "a stall without errors for clients past the proxy"
		fence   = "fence F3"
		notify  = "switching notifications on, and back"
		exactly = "saying exactly what is missing"
		proving = "proving that notifications arrive"
		fitting = "trying whether the target takes the source's values"
		growing = "big keys that change while they are copied"
	)
	other := key[len(probePrefix):] // a name outside our own prefix
	a := func(args ...any) []any { return args }
	v7, v62, v6 := version{7, 0, 0}, version{6, 2, 0}, version{6, 0, 0}
	return []need{
		{at: roleBoth, args: a("PING")},
		{at: roleBoth, args: a("INFO")},
		{at: roleBoth, args: a("TIME")},
		{at: roleBoth, args: a("SELECT", 0), noTry: true},
		{at: roleBoth, args: a("SET", key, "probe", "EX", 60)},
		{at: roleBoth, args: a("GET", key)},
		{at: roleBoth, args: a("EXISTS", other)},
		{at: roleBoth, args: a("TYPE", other)},
		{at: roleBoth, args: a("SCAN", 0, "COUNT", 1)},
		{at: roleBoth, args: a("DBSIZE")},
		{at: roleBoth, args: a("DUMP", other), optional: true, why: dump + ", and to compare them"},
		{at: roleBoth, args: a("PTTL", other)},
		{at: roleBoth, args: a("PEXPIRETIME", other), since: v7, optional: true, why: "expiries to the millisecond"},
		{at: roleBoth, args: a("CLIENT", "LIST"), sub: true},
		{at: roleBoth, args: a("CLIENT", "SETNAME", "crossfade:preflight"), sub: true, noTry: true},
		{at: roleBoth, args: a("CLIENT", "ID"), sub: true, why: "ending writes of an earlier run"},
		{at: roleBoth, args: a("CLIENT", "KILL", "ID", nobody), sub: true, why: back},
		{at: roleBoth, args: a("CLIENT", "UNBLOCK", 0, "ERROR"), sub: true, why: back},
		{at: roleBoth, args: a("CLIENT", "PAUSE", 1, "WRITE"), sub: true, since: v62, optional: true, why: soft, noTry: true},
		{at: roleBoth, args: a("CLIENT", "UNPAUSE"), sub: true, since: v62, optional: true, why: soft, noTry: true},
		{at: roleBoth, args: a("MEMORY", "USAGE", other), sub: true, optional: true, why: "finding big keys"},
		{at: roleFrom, args: a("PSUBSCRIBE", keyeventPattern), channel: keyeventPattern, why: "change notifications", try: psubscribe(keyeventPattern)},
		{at: roleFrom, args: a("PSUBSCRIBE", keyspacePattern), channel: keyspacePattern, why: "change notifications", try: psubscribe(keyspacePattern)},
		{at: roleFrom, args: a("SUBSCRIBE", "__keyspace@0__:"+key), channel: keyspacePattern, optional: true, why: proving, try: subscribe},
		{at: roleFrom, args: a("CONFIG", "GET", "notify-keyspace-events"), sub: true, optional: true, why: "watching the notification settings"},
		{at: roleFrom, args: a("CONFIG", "SET", "notify-keyspace-events", ""), sub: true, optional: true, why: notify, noTry: true},
		{at: roleFrom, args: a("ACL", "USERS"), sub: true, since: v6, optional: true, why: fence, noTry: true},
		{at: roleFrom, args: a("ACL", "GETUSER", "default"), sub: true, since: v6, optional: true, why: fence, noTry: true},
		{at: roleFrom, args: a("ACL", "SETUSER", "nobody"), sub: true, since: v6, optional: true, why: fence, noTry: true},
		{at: roleFrom, args: a("ACL", "DELUSER", "nobody"), sub: true, since: v6, optional: true, why: fence, noTry: true},
		{at: roleFrom, args: a("ACL", "CAT"), sub: true, since: v6, optional: true, why: "letting only those listen during the way back who may", noTry: true},
		{at: roleFrom, args: a("ACL", "LOG", 1), sub: true, since: v6, optional: true, why: "naming clients whom the fence refuses", noTry: true},
		{at: roleBoth, args: a("ACL", "WHOAMI"), sub: true, since: v6, optional: true, why: exactly, noTry: true},
		{at: roleBoth, args: a("ACL", "DRYRUN", "default", "PING"), sub: true, since: v7, optional: true, why: exactly, tryOnly: true},
		{at: roleFrom, args: a("COMMAND"), since: v7, optional: true, why: "what clients change by modules' commands that do not notify"},
		{at: roleBoth, args: a("FUNCTION", "LIST"), sub: true, since: v7, optional: true, why: "carrying functions over"},
		{at: roleBoth, args: a("WATCH", key), why: back, try: watch(key)},
		{at: roleBoth, args: a("MULTI"), why: back, try: transaction(key)},
		{at: roleBoth, args: a("EXEC"), why: back, noTry: true},
		{at: roleBoth, args: a("UNWATCH"), why: back},
		{at: roleFrom, args: a("SETRANGE", key, 0, "p"), optional: true, why: proving},
		{at: roleFrom, args: a("LINSERT", key, "BEFORE", "a", "b"), optional: true, why: proving},
		{at: roleFrom, args: a("SUNIONSTORE", key+":none", other), optional: true, why: proving},
		{at: roleFrom, args: a("HINCRBYFLOAT", key, "a", "1.5"), optional: true, why: proving},
		{at: roleFrom, args: a("ZREMRANGEBYRANK", key, 0, 0), optional: true, why: proving},
		{at: roleFrom, args: a("PFADD", key, "a"), optional: true, why: fitting, noTry: true}, // it would make it a HyperLogLog
		{at: roleBoth, args: a("HGETALL", other), optional: true, why: fitting},
		{at: roleBoth, args: a("ZRANGE", other, 0, 0), optional: true, why: fitting},
		{at: roleBoth, args: a("SORT", other, "ALPHA"), optional: true, why: fitting},
		{at: roleBoth, args: a("MODULE", "LIST"), sub: true, optional: true, why: "finding what modules the servers have"},
		{at: roleBoth, args: a("STRLEN", other), why: logical},
		{at: roleFrom, args: a("GETRANGE", other, 0, 0), why: logical},
		{at: roleFrom, args: a("LRANGE", other, 0, 0), why: logical},
		{at: roleBoth, args: a("LLEN", other), why: logical},
		{at: roleFrom, args: a("SSCAN", other, 0), why: logical},
		{at: roleFrom, args: a("HSCAN", other, 0), why: logical},
		{at: roleFrom, args: a("ZSCAN", other, 0), why: logical},
		{at: roleBoth, args: a("XRANGE", other, "-", "+", "COUNT", 1), why: logical},
		{at: roleBoth, args: a("XREVRANGE", other, "+", "-", "COUNT", 1), why: logical},
		{at: roleFrom, args: a("XINFO", "STREAM", other), sub: true, why: logical},
		{at: roleFrom, args: a("XINFO", "GROUPS", other), sub: true, why: logical},
		{at: roleFrom, args: a("XINFO", "CONSUMERS", other, "g"), sub: true, why: logical},
		{at: roleFrom, args: a("XPENDING", other, "g", "-", "+", 1), why: logical},
		{at: roleFrom, args: a("HPEXPIRETIME", other, "FIELDS", 1, "f"), since: version{7, 4, 0}, why: logical},
		{at: roleBoth, args: a("RANDOMKEY"), why: compare},
		{at: roleBoth, args: a("XLEN", other), why: compare},
		{at: roleBoth, args: a("SCARD", other), why: compare},
		{at: roleBoth, args: a("ZCARD", other), why: compare},
		{at: roleBoth, args: a("HLEN", other), why: compare},
		{at: roleBoth, args: a("HGET", other, "f"), why: compare},
		{at: roleBoth, args: a("SISMEMBER", other, "m"), why: compare},
		{at: roleBoth, args: a("ZSCORE", other, "m"), why: compare},
		{at: roleTo, args: a("RESTORE", other, 0, "no payload"), optional: true, why: dump},
		{at: roleBoth, args: a("HMGET", other, "f"), optional: true, why: compare},
		{at: roleBoth, args: a("SMISMEMBER", other, "m"), since: v62, optional: true, why: compare},
		{at: roleBoth, args: a("ZMSCORE", other, "m"), since: v62, optional: true, why: compare},
		{at: roleTo, args: a("PEXPIREAT", key, "32503680000000")},
		{at: roleTo, args: a("PERSIST", other)},
		{at: roleTo, args: a("PEXPIRE", key, 60000)},
		{at: roleTo, args: a("EXPIRE", key, 60), optional: true, why: "temporary keys of these checks"},
		{at: roleTo, args: a("RENAME", key+":none", key+":none2"), why: logical},
		{at: roleTo, args: a("APPEND", key, ""), why: logical},
		{at: roleTo, args: a("RPUSH", key, "x"), why: logical},
		{at: roleTo, args: a("LPUSH", key, "x"), why: logical},
		{at: roleTo, args: a("RPUSHX", key, "x"), why: growing},
		{at: roleTo, args: a("LPUSHX", key, "x"), why: growing},
		{at: roleTo, args: a("LTRIM", key, 0, -1), why: growing},
		{at: roleTo, args: a("HDEL", key, "x"), why: growing},
		{at: roleTo, args: a("SREM", key, "x"), why: growing},
		{at: roleTo, args: a("ZREM", key, "x"), why: growing},
		{at: roleTo, args: a("SADD", key, "x"), why: logical},
		{at: roleTo, args: a("HSET", key, "x", "x"), why: logical},
		{at: roleTo, args: a("HPEXPIREAT", key, "32503680000000", "FIELDS", 1, "x"), since: version{7, 4, 0}, why: logical},
		{at: roleTo, args: a("ZADD", key, 1, "x"), why: logical},
		{at: roleTo, args: a("XADD", key, "*", "x", "x"), why: logical},
		{at: roleTo, args: a("XGROUP", "CREATE", key, "g", "0"), sub: true, why: logical},
		{at: roleTo, args: a("XGROUP", "CREATECONSUMER", key, "g", "c"), sub: true, since: v62, why: logical},
		{at: roleTo, args: a("XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "STREAMS", key, 0), until: v62, why: logical},
		{at: roleTo, args: a("XGROUP", "DESTROY", key, "g"), sub: true, why: logical},
		{at: roleTo, args: a("XTRIM", key, "MAXLEN", 0), why: logical},
		{at: roleTo, args: a("XDEL", key, "1-1"), why: logical},
		{at: roleTo, args: a("XCLAIM", key, "g", "c", 0, "0-1"), why: logical, noTry: true}, // counted by the watch for foreign XCLAIMs
		{at: roleTo, args: a("XSETID", key, "1-1"), why: logical},
		{at: roleTo, args: a("FUNCTION", "LOAD", "REPLACE", "#!lua name=crossfade"), sub: true, since: v7, optional: true, why: "carrying functions over", noTry: true},
		{at: roleTo, args: a("FUNCTION", "DELETE", "crossfade"), sub: true, since: v7, optional: true, why: "carrying functions over", noTry: true},
		{at: roleTo, args: a("SCRIPT", "LOAD", "return 1"), sub: true, why: "scripts", noTry: true},
		{at: roleTo, args: a("FLUSHDB"), optional: true, why: flush, noTry: true},
		{at: roleTo, args: a("SWAPDB", 0, 0), optional: true, why: flush, noTry: true},
		{at: roleBoth, args: a("UNLINK", key), optional: true, why: "removing large keys in the background"},
		{at: roleBoth, args: a("DEL", key)},
	}
}

// nobody is no client's id. 0 means everybody to CLIENT KILL before Redis 7.0.
const nobody = "9223372036854775807"

// The patterns that the copier subscribes to: ACL wants them literally.
const (
	keyeventPattern = "__keyevent@*__:*"
	keyspacePattern = "__keyspace@*__:*"
)

// psubscribe and subscribe use a connection of their own: in RESP2 one that
// subscribes is good for nothing else.
func psubscribe(pattern string) func(context.Context, *redis.Client) error {
	return func(ctx context.Context, c *redis.Client) error { return confirmed(ctx, c.PSubscribe(ctx, pattern)) }
}

func subscribe(ctx context.Context, c *redis.Client) error {
	return confirmed(ctx, c.Subscribe(ctx, "__keyspace@0__:"+probePrefix+"none"))
}

func confirmed(ctx context.Context, feed *redis.PubSub) error {
	defer func() { _ = feed.Close() }()
	_, err := feed.ReceiveTimeout(ctx, time.Second)
	return err
}

func watch(key string) func(context.Context, *redis.Client) error {
	return func(ctx context.Context, c *redis.Client) error {
		return c.Watch(ctx, func(*redis.Tx) error { return nil }, key)
	}
}

func transaction(key string) func(context.Context, *redis.Client) error {
	return func(ctx context.Context, c *redis.Client) error {
		_, err := c.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Exists(ctx, key)
			return nil
		})
		return err
	}
}
