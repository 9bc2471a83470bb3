package fleet

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
)

// lines are commands whose answers are the same on one server, whatever protocol is spoken;
// ~ before one says that the order of the elements means nothing.
const lines = `
SET a 1
GET a
GET none
SET a 2 GET
SET a 3 NX
SETNX b 1
SETEX c 100 x
PSETEX c 100000 x
GETSET a 5
APPEND a 6
STRLEN a
GETRANGE a 0 0
SETRANGE a 1 zz
SUBSTR a 0 1
INCR n
INCRBY n 5
DECR n
DECRBY n 2
INCRBYFLOAT n 1.5
INCR a
GETDEL b
GETEX c PERSIST
TTL c
PTTL none
EXPIRE c 0
EXISTS c
MSET k1 v1 k2 v2 k3 v3 k4 v4 k5 v5
MGET k1 k2 none k3 k1 k5 k4
MGET k1
MGET
MSET k1
MSET k1 v1 k2
EXISTS k1 k2 none k1 k1
TOUCH k1 k2 k3 none
DEL k1 none k2
UNLINK k3 k4 k5 none
EXISTS k1 k2 k3 k4 k5
DEL
MSETNX {t}x 1 {t}y 2
MSETNX {t}x 1 {t}z 2
LCS {t}x {t}y
RPUSH l a b c d e
LRANGE l 0 -1
LINDEX l 2
LPUSH l z
LLEN l
LPOP l
RPOP l 2
LREM l 1 b
LSET l 0 q
LINSERT l BEFORE q p
LTRIM l 0 1
LPOS l q
LPUSHX none x
RPUSHX l x
RPUSH {t}l 1 2 3
LMOVE {t}l {t}m LEFT RIGHT
RPOPLPUSH {t}l {t}m
LMPOP 2 {t}l {t}m LEFT COUNT 2
LRANGE {t}m 0 -1
GET l
MGET l a
HSET h f1 v1 f2 v2
HGET h f1
HMGET h f1 f2 f3
~HGETALL h
HLEN h
HEXISTS h f1
HINCRBY h n 4
HINCRBYFLOAT h n 1.5
HSETNX h f1 x
HSTRLEN h f1
~HKEYS h
~HVALS h
HDEL h f1 none
HMSET h g 1
HSCAN h 0
SADD s 1 2 3
~SMEMBERS s
SCARD s
SISMEMBER s 2
SMISMEMBER s 2 9
SREM s 1
SADD {t}s 1 2 3
SADD {t}u 3 4
~SINTER {t}s {t}u
~SUNION {t}s {t}u
~SDIFF {t}s {t}u
SINTERCARD 2 {t}s {t}u
SINTERSTORE {t}i {t}s {t}u
SUNIONSTORE {t}i {t}s {t}u
SDIFFSTORE {t}i {t}s {t}u
SMOVE {t}s {t}u 1
SSCAN s 0
ZADD z 1 a 2 b 3 c
ZADD z XX CH 5 a
ZRANGE z 0 -1 WITHSCORES
ZRANGEBYSCORE z 2 3
ZREVRANGE z 0 1
ZSCORE z a
ZMSCORE z a none
ZRANK z b
ZREVRANK z b
ZCARD z
ZCOUNT z 1 3
ZINCRBY z 2 b
ZLEXCOUNT z - +
ZRANGEBYLEX z - +
ZREM z c
ZPOPMIN z
ZPOPMAX z 2
ZADD {t}z 1 a 2 b
ZADD {t}w 3 b 4 c
ZUNION 2 {t}z {t}w WITHSCORES
ZINTER 2 {t}z {t}w
ZDIFF 2 {t}z {t}w
ZINTERCARD 2 {t}z {t}w
ZUNIONSTORE {t}v 2 {t}z {t}w
ZINTERSTORE {t}v 2 {t}z {t}w
ZDIFFSTORE {t}v 2 {t}z {t}w
ZRANGESTORE {t}v {t}w 0 -1
ZMPOP 2 {t}z {t}w MIN
ZREMRANGEBYRANK {t}w 0 0
ZSCAN {t}v 0
SETBIT bits 7 1
GETBIT bits 7
BITCOUNT bits
BITPOS bits 1
BITFIELD bits SET u8 0 255 GET u8 0
BITFIELD_RO bits GET u8 0
BITOP NOT {t}b {t}x
PFADD pf a b c
PFCOUNT pf
PFADD {t}pf a
PFADD {t}pg b
PFMERGE {t}ph {t}pf {t}pg
PFCOUNT {t}pf {t}pg
GEOADD g 13.361389 38.115556 Palermo 15.087269 37.502669 Catania
GEODIST g Palermo Catania km
GEOHASH g Palermo
GEOPOS g Palermo none
GEOSEARCH g FROMLONLAT 15 37 BYRADIUS 200 km ASC
GEORADIUS g 15 37 200 km ASC
GEORADIUSBYMEMBER g Palermo 200 km ASC
GEOADD {t}g 13.361389 38.115556 Palermo
GEOSEARCHSTORE {t}gs {t}g FROMLONLAT 13 38 BYRADIUS 200 km
XADD x 1-1 f v
XADD x 1-1 f v
XADD x 2-1 f w
XLEN x
XRANGE x - +
XREVRANGE x + -
XREAD COUNT 1 STREAMS x 0
XREAD STREAMS x 9
XGROUP CREATE x grp 0
XGROUP CREATE x grp 0
XREADGROUP GROUP grp me COUNT 1 STREAMS x >
XPENDING x grp
XACK x grp 1-1
XGROUP CREATECONSUMER x grp you
XCLAIM x grp you 0 2-1
XAUTOCLAIM x grp you 0 0
XINFO GROUPS x
XGROUP DELCONSUMER x grp you
XGROUP DESTROY x grp
XDEL x 1-1
XTRIM x MAXLEN 0
XSETID x 9-9
RENAME {t}x {t}r
RENAME {t}none {t}r
RENAMENX {t}r {t}y
COPY {t}r {t}c2
TYPE a
TYPE none
OBJECT ENCODING n
OBJECT REFCOUNT none
PERSIST a
EXPIRETIME a
PEXPIRETIME none
EXPIREAT a 33177117420
EXPIRETIME a
RPUSH srt 3 1 2
SORT srt
SORT srt LIMIT 0 2 DESC
SORT_RO srt
SORT srt ALPHA
DUMP none
RESTORE rs 0 bad
EVAL "return redis.call('set', KEYS[1], ARGV[1])" 1 ek 5
EVAL "return {KEYS[1], ARGV[1], 1, false}" 1 ek x
EVAL "return 7" 0
EVAL_RO "return redis.call('get', KEYS[1])" 1 ek
EVAL "return redis.error_reply('MY error')" 1 ek
EVAL "return 1" x
EVALSHA ffffffffffffffffffffffffffffffffffffffff 1 a
SCRIPT LOAD "return redis.call('get', KEYS[1])"
EVALSHA 4e6d8fc8bb01276962cce5371fa795a7763657ae 1 ek
SCRIPT EXISTS 4e6d8fc8bb01276962cce5371fa795a7763657ae ffffffffffffffffffffffffffffffffffffffff
EVALSHA_RO 4e6d8fc8bb01276962cce5371fa795a7763657ae 1 ek
SCRIPT FLUSH
SCRIPT EXISTS 4e6d8fc8bb01276962cce5371fa795a7763657ae
FUNCTION LOAD "#!lua name=lib\nredis.register_function('f', function(k, a) return redis.call('get', k[1]) end)"
FUNCTION LOAD "#!lua name=lib\nredis.register_function('f', function(k, a) return 1 end)"
FCALL f 1 ek
FCALL nosuch 1 ek
FUNCTION LIST LIBRARYNAME lib
FUNCTION DELETE lib
FUNCTION DELETE lib
BLPOP lb 0.01
RPUSH lb 1 2
BLPOP lb 0
BRPOP lb 0
BLMOVE {t}n1 {t}n2 LEFT RIGHT 0.01
BZPOPMIN zz 0.01
BLMPOP 0.01 1 lb LEFT
BLPOP lb x
BLPOP lb -1
XREAD BLOCK 10 STREAMS nostream $
BRPOPLPUSH {t}n1 {t}n2 0.01
BZMPOP 0.01 1 zz MIN
MULTI
SET m1 1
INCR m1
GET m1
EXEC
MULTI
PING
EXEC
MULTI
EXEC
EXEC
DISCARD
MULTI
DISCARD
MULTI
MULTI
NOSUCH
EXEC
MULTI
SET m1
EXEC
MULTI
INCR l
LPUSH l x
DISCARD
WATCH m1
MULTI
INCR m1
EXEC
WATCH m1
SET m1 9
MULTI
INCR m1
EXEC
WATCH m1
UNWATCH
MULTI
INCR m1
EXEC
UNWATCH
WATCH
MULTI
WATCH m1
EXEC
PING
PING hello
PING a b
ECHO hi
SELECT 0
CLIENT GETNAME
CLIENT SETNAME me
CLIENT GETNAME
CLIENT SETNAME "bad name"
CLIENT NO-EVICT on
CLIENT REPLY ON
CLIENT TRACKING off
CLIENT UNBLOCK 999999
CLIENT NOSUCH
CLUSTER INFO
READONLY
READWRITE
ASKING
COMMAND COUNT
COMMAND GETKEYS SET a b
CONFIG GET maxmemory-policy
CONFIG GET nosuch
OBJECT HELP
PUBLISH nobody hi
PUBSUB CHANNELS
PUBSUB NUMSUB a b
PUBSUB NUMPAT
PUBSUB SHARDCHANNELS
PUBSUB SHARDNUMSUB a
SPUBLISH nobody hi
UNSUBSCRIBE
PUNSUBSCRIBE a
WAIT 0 10
LOLWUT VERSION 1
NOSUCH a b
GET
get a b
SET a 1 NOSUCH
ROLE x
DBSIZE
~KEYS *
SCAN x
SCAN
RANDOMKEY x
TIME x
INFO commandstats nosuch nosuch
FLUSHDB
DBSIZE
KEYS *
RANDOMKEY
SCAN 0
SCAN 0 MATCH a* COUNT 5
SCAN 0 NOSUCH
FLUSHALL ASYNC
FLUSHALL NOSUCH
`

func TestEqualsOneServer(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	s := redistest.Start(t)
	f := over(t, c)
	for _, proto := range []string{"2", "3"} {
		fleet, server := dial(t, f), dialServer(t, s)
		fleet.line("HELLO " + proto)
		server.line("HELLO " + proto)
		count := 0
		for line := range strings.Lines(lines) {
			line, anyOrder := strings.CutPrefix(strings.TrimSpace(line), "~")
			if line == "" || strings.HasPrefix(line, "INFO") {
				continue
			}
			count++
			got, want := fleet.line(line), server.line(line)
			if anyOrder {
				got, want = sorted(got), sorted(want)
			}
			if got != want {
				t.Errorf("RESP%s: %s: %q, a server says %q", proto, line, got, want)
			}
		}
		fleet.silent()
		server.silent()
		if count < 250 {
			t.Errorf("only %d lines", count)
		}
	}
}

// TestEqualsOneServerAtOnce says all lines in one piece.
func TestEqualsOneServerAtOnce(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	fleet, server := dial(t, over(t, c)), dialServer(t, redistest.Start(t))
	var all [][]string
	var orders []bool
	for line := range strings.Lines(lines) {
		line, anyOrder := strings.CutPrefix(strings.TrimSpace(line), "~")
		if line != "" && !strings.HasPrefix(line, "INFO") {
			all, orders = append(all, fields(line)), append(orders, anyOrder)
		}
	}
	fleet.send(all...)
	server.send(all...)
	for i, args := range all {
		got, want := fleet.read(), server.read()
		if orders[i] {
			got, want = sorted(got), sorted(want)
		}
		if got != want {
			t.Errorf("%q: %q, a server says %q", args, got, want)
		}
	}
	fleet.silent()
}

// TestRandomSessions has several connections at a time say commands by chance, each about
// keys of its own, and one server be asked the same.
func TestRandomSessions(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	s := redistest.Start(t)
	f := over(t, c)
	rounds := 300
	if testing.Short() {
		rounds = 50
	}
	var wg sync.WaitGroup
	for i := range 6 {
		seed := rand.Uint64()
		wg.Add(1)
		fleet, server := dial(t, f), dialServer(t, s)
		go func() {
			defer wg.Done()
			w := &chance{rand.New(rand.NewPCG(seed, uint64(i))), fmt.Sprint("c", i)}
			if i%2 == 1 {
				fleet.line("HELLO 3")
				server.line("HELLO 3")
			}
			for range rounds {
				batch := w.batch()
				fleet.send(batch...)
				server.send(batch...)
				for _, args := range batch {
					got, err := fleet.next()
					if err != nil {
						t.Errorf("seed %d: %q: %v", seed, args, err)
						return
					}
					want, err := server.next()
					if err != nil {
						t.Error(err)
						return
					}
					switch args[0] {
					case "SMEMBERS", "HGETALL", "SUNION", "HKEYS":
						got, want = sorted(got), sorted(want)
					}
					if got != want {
						t.Errorf("seed %d: %q: %q, a server says %q", seed, args, got, want)
						return
					}
				}
			}
		}()
	}
	wg.Wait()
}

// chance makes commands up.
type chance struct {
	*rand.Rand
	own string
}

func (w *chance) key() string { return fmt.Sprint(w.own, ":", w.IntN(12)) }
func (w *chance) tagged() string {
	return fmt.Sprint("{", w.own, "}", w.IntN(5))
}

func (w *chance) batch() (lines [][]string) {
	for range 1 + w.IntN(20) {
		lines = append(lines, w.line()...)
	}
	return lines
}

func (w *chance) line() [][]string {
	k, v := w.key(), fmt.Sprint(w.IntN(100))
	one := func(args ...string) [][]string { return [][]string{args} }
	switch w.IntN(30) {
	case 0, 1, 2:
		return one("SET", k, v)
	case 3, 4, 5:
		return one("GET", k)
	case 6:
		return one("INCRBY", k, v)
	case 7:
		return one("DEL", w.key(), w.key(), w.key())
	case 8:
		return one("MSET", w.key(), v, w.key(), v, w.key(), v+"x")
	case 9, 10:
		return one("MGET", w.key(), w.key(), w.key(), w.key())
	case 11:
		return one("EXISTS", w.key(), w.key(), k, k)
	case 12:
		return one("RPUSH", k, v, v)
	case 13:
		return one("LRANGE", k, "0", "-1")
	case 14:
		return one("SADD", k, v, v+"a")
	case 15:
		return one("SMEMBERS", k)
	case 16:
		return one("HSET", k, "f"+v, v)
	case 17:
		return one("HGETALL", k)
	case 18:
		return one("ZADD", k, v, "m"+v)
	case 19:
		return one("ZRANGE", k, "0", "-1", "WITHSCORES")
	case 20:
		return one("RENAME", w.tagged(), w.tagged())
	case 21:
		return one("SET", w.tagged(), v)
	case 22:
		return one("EVAL", "return redis.call('incrby', KEYS[1], ARGV[1])", "1", k, v)
	case 23:
		lines := one("MULTI")
		for range w.IntN(4) {
			lines = append(lines, []string{"INCR", w.tagged()}, []string{"GET", w.tagged()})
		}
		return append(lines, []string{[]string{"EXEC", "EXEC", "EXEC", "DISCARD"}[w.IntN(4)]})
	case 24:
		watched := w.tagged()
		lines := one("WATCH", watched)
		if w.IntN(2) == 0 {
			lines = append(lines, []string{"SET", watched, v})
		}
		return append(lines, []string{"MULTI"}, []string{"INCR", watched}, []string{"EXEC"})
	case 25:
		return one("BLPOP", k, "0.01")
	case 26:
		return one("PING", v)
	case 27:
		return one("TYPE", k)
	case 28:
		return one("NOSUCH", k)
	}
	return one("UNLINK", w.key(), w.key())
}
