package proxy

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/resp"
	hash "github.com/crossfade/crossfade/internal/slot"
	"github.com/crossfade/crossfade/router"
)

// rowStage is a cluster, and what clients see of it through the proxy, with its one database
// and with two databases that are prefixes of it.
type rowStage struct {
	*testing.T
	cluster     *redistest.Cluster
	one, parts  *world
	other       *world   // whose clients' database 3 is the cluster's
	a, b, three *raw     // of one; three speaks RESP3
	key         []string // one at each master
}

// clusterRows says what each row of docs/clusters.md promises.
var clusterRows = map[string]func(r *rowStage){
	"Of one key": func(r *rowStage) {
		for i, k := range r.key {
			r.says("SET "+k+" "+fmt.Sprint(i), ok)
			r.says("INCRBY "+k+" 10", fmt.Sprintf(":%d\r\n", 10+i))
			if got := r.on(i, "GET", k); got != fmt.Sprint(10+i) {
				r.Errorf("master %d has %v", i, got)
			}
		}
		r.cluster.Move(r.cluster.Masters()[0], hash.Of([]byte(r.key[1])))
		r.says("GET "+r.key[1], "$2\r\n11\r\n")
		r.says("APPEND "+r.key[1]+" x", ":3\r\n")
		r.cluster.Move(r.cluster.Masters()[1], hash.Of([]byte(r.key[1])))
		r.says("GETDEL "+r.key[1], "$3\r\n11x\r\n")
	},
	"MGET": func(r *rowStage) {
		r.says("SET "+r.key[0]+" 0", ok)
		r.says("SADD "+r.key[1]+" x", ":1\r\n")
		r.says("SET "+r.key[2]+" 2", ok)
		r.says(fmt.Sprintf("MGET %s none %s %s %s", r.key[2], r.key[1], r.key[0], r.key[2]), "*5\r\n$1\r\n2\r\n$-1\r\n$-1\r\n$1\r\n0\r\n$1\r\n2\r\n")
	},
	"MSET": func(r *rowStage) {
		r.says(fmt.Sprintf("MSET %s 1 %s 2 %s 3 %s 4", r.key[0], r.key[1], r.key[2], r.key[0]), ok)
		r.says("MGET "+strings.Join(r.key, " "), list("4", "2", "3"))
		r.refuses("MSET "+r.key[0], "wrong number of arguments")
	},
	"MSETNX": func(r *rowStage) {
		r.refuses("MSETNX "+r.key[0]+" 1 "+r.key[1]+" 2", "CROSSSLOT")
		r.says("EXISTS "+r.key[0], ":0\r\n")
		r.says("MSETNX {t}a 1 {t}b 2", ":1\r\n")
		r.says("MSETNX {t}a 1 {t}c 2", ":0\r\n")
	},
	"DEL UNLINK EXISTS TOUCH": func(r *rowStage) {
		all := strings.Join(r.key, " ")
		for _, verb := range []string{"DEL", "UNLINK"} {
			r.says(fmt.Sprintf("MSET %s 1 %s 1 %s 1", r.key[0], r.key[1], r.key[2]), ok)
			r.says("EXISTS "+all+" none "+r.key[0], ":4\r\n")
			r.says("TOUCH "+all+" none", ":3\r\n")
			r.says(verb+" "+all+" none", ":3\r\n")
			r.says("EXISTS "+all, ":0\r\n")
		}
	},
	"Of several keys": func(r *rowStage) {
		a, b := r.key[0], r.key[1]
		for _, line := range []string{"RENAME %s %s", "RENAMENX %s %s", "COPY %s %s", "SMOVE %s %s x", "LMOVE %s %s LEFT LEFT", "RPOPLPUSH %s %s", "SINTER %s %s", "SUNION %s %s",
			"SDIFF %s %s", "SINTERSTORE %s %s", "ZUNION 2 %s %s", "ZUNIONSTORE %s 1 %s", "ZRANGESTORE %s %s 0 -1", "BITOP NOT %s %s", "PFMERGE %s %s", "PFCOUNT %s %s", "LCS %s %s", "LMPOP 2 %s %s LEFT",
			"ZMPOP 2 %s %s MIN", "SINTERCARD 2 %s %s", "GEORADIUS %s 1 1 1 km STORE %s", "GEOSEARCHSTORE %s %s FROMLONLAT 1 1 BYRADIUS 1 km"} {
			r.refuses(fmt.Sprintf(line, a, b), "CROSSSLOT")
		}
		r.says("SET {t}a 1", ok)
		r.says("RENAME {t}a {t}b", ok)
		r.says("COPY {t}b {t}c", ":1\r\n")
		r.says("SADD {t}s 1", ":1\r\n")
		r.says("SUNIONSTORE {t}u {t}s {t}v", ":1\r\n")
	},
	"SORT": func(r *rowStage) {
		r.says("RPUSH {t}l 3 1 2", ":3\r\n")
		r.says("SORT {t}l STORE {t}m", ":3\r\n")
		r.says("LRANGE {t}m 0 -1", list("1", "2", "3"))
		r.refuses("SORT {t}l STORE other", "CROSSSLOT")
		r.refuses("SORT {t}l BY w_*", "luster mode")
		r.refuses("SORT {t}l GET w_*", "luster mode")
	},
	"EVAL EVALSHA FCALL": func(r *rowStage) {
		r.says(`EVAL "return redis.call('set', KEYS[1], 'v')" 1 `+r.key[1], ok)
		r.says("GET "+r.key[1], "$1\r\nv\r\n")
		r.refuses(fmt.Sprintf("EVAL x 2 %s %s", r.key[0], r.key[1]), "CROSSSLOT")
		r.refuses(fmt.Sprintf("FCALL x 2 %s %s", r.key[0], r.key[1]), "CROSSSLOT")
		refused := 0
		for _, k := range r.key {
			if got := r.a.do(`EVAL "return redis.call('set', ARGV[1], 'w')" 0 ` + k); got[0] == '-' {
				refused++
			}
		}
		if refused != 2 {
			r.Errorf("%d of three scripts without keys are refused by the one master", refused)
		}
	},
	"SCRIPT": func(r *rowStage) {
		sha, _, _ := resp.Text([]byte(r.a.do(`SCRIPT LOAD "return KEYS[1]"`)))
		r.says("SCRIPT EXISTS "+string(sha), "*1\r\n:1\r\n")
		_ = r.cluster.On(r.cluster.Masters()[1]).ScriptFlush(r.Context()).Err()
		r.says("SCRIPT EXISTS "+string(sha), "*1\r\n:0\r\n")
		for _, k := range r.key {
			r.says("EVALSHA "+string(sha)+" 1 "+k, fmt.Sprintf("$%d\r\n%s\r\n", len(k), k))
		}
		r.says("SCRIPT FLUSH", ok)
		for i := range r.key {
			if got := r.on(i, "SCRIPT", "EXISTS", string(sha)); fmt.Sprint(got) != "[0]" {
				r.Errorf("master %d still has the script: %v", i, got)
			}
		}
		r.refuses("SCRIPT KILL", "NOTBUSY")
		r.b.send(`EVAL "while true do end" 1 ` + r.key[1])
		until(r, "the script is killed", func() bool { return r.a.do("SCRIPT KILL") == ok })
		if got := r.b.next(); !strings.Contains(got, "killed") {
			r.Errorf("the script that was killed says %q", got)
		}
	},
	"FUNCTION": func(r *rowStage) {
		r.says(`FUNCTION LOAD "#!lua name=lib\nredis.register_function('f', function(k, a) return redis.call('incr', k[1]) end)"`, "$3\r\nlib\r\n")
		for _, k := range r.key {
			r.says("FCALL f 1 "+k, ":1\r\n")
		}
		dump, _, _ := resp.Text([]byte(r.a.do("FUNCTION DUMP")))
		count := func(want int) {
			for i := range r.key {
				if list, _ := r.on(i, "FUNCTION", "LIST").([]any); len(list) != want {
					r.Errorf("master %d has %d libraries, want %d", i, len(list), want)
				}
			}
		}
		count(1)
		r.says("FUNCTION DELETE lib", ok)
		count(0)
		r.a.write(wireOf([]byte("FUNCTION"), []byte("RESTORE"), dump))
		r.a.expect(ok)
		count(1)
		r.says("FUNCTION FLUSH", ok)
		count(0)
		r.refuses("FUNCTION KILL", "NOTBUSY")
	},
	"SCAN": func(r *rowStage) {
		for i := range 200 {
			r.says(fmt.Sprintf("SET s%d x", i), ok)
		}
		found := r.scan(r.a, "")
		if len(found) != 200 {
			r.Errorf("SCAN finds %d of 200 keys", len(found))
		}
		if found = r.scan(r.a, " MATCH s1?"); len(found) != 10 {
			r.Errorf("SCAN MATCH finds %d of 10 keys", len(found))
		}
		if found = r.scan(r.a, " TYPE list"); len(found) != 0 {
			r.Errorf("SCAN TYPE finds %d keys", len(found))
		}
	},
	"HSCAN SSCAN ZSCAN": func(r *rowStage) {
		for i := range 300 {
			r.says(fmt.Sprintf("HSET {h}h f%d v%d", i, i), ":1\r\n")
			r.says(fmt.Sprintf("SADD {h}s member-that-is-no-number-%d", i), ":1\r\n")
			r.says(fmt.Sprintf("ZADD {h}z %d m%d", i, i), ":1\r\n")
		}
		for command, want := range map[string]int{"HSCAN {h}h": 600, "SSCAN {h}s": 300, "ZSCAN {h}z": 600} {
			if found := r.pages(r.a, command, " COUNT 10"); len(found) != want {
				r.Errorf("%s finds %d of %d", command, len(found), want)
			}
		}
		r.says("HSCAN {h}none 0", "*2\r\n"+bulk("0")+"*0\r\n")
		r.refuses("HSCAN {h}h x", "ERR invalid cursor")
		r.refuses("HSCAN {h}s 0", "WRONGTYPE")
	},
	"KEYS": func(r *rowStage) {
		for _, k := range r.key {
			r.says("SET "+k+" x", ok)
		}
		if got := sortedKeys(r, r.a.do("KEYS *")); len(got) != 3 {
			r.Errorf("KEYS: %q", got)
		}
		r.says("KEYS none*", "*0\r\n")
	},
	"DBSIZE": func(r *rowStage) {
		r.says("DBSIZE", ":0\r\n")
		for _, k := range r.key {
			r.says("SET "+k+" x", ok)
		}
		r.says("DBSIZE", ":3\r\n")
	},
	"RANDOMKEY": func(r *rowStage) {
		r.says("RANDOMKEY", "$-1\r\n")
		r.says("SET "+r.key[2]+" x", ok)
		for range 5 {
			r.says("RANDOMKEY", fmt.Sprintf("$%d\r\n%s\r\n", len(r.key[2]), r.key[2]))
		}
	},
	"FLUSHDB FLUSHALL": func(r *rowStage) {
		for _, line := range []string{"FLUSHDB", "FLUSHDB ASYNC", "FLUSHDB SYNC", "FLUSHALL", "FLUSHALL ASYNC"} {
			for _, k := range r.key {
				r.says("SET "+k+" x", ok)
			}
			r.says(line, ok)
			for i := range r.key {
				if got := r.on(i, "DBSIZE"); got != int64(0) {
					r.Errorf("%s leaves %v keys at master %d", line, got, i)
				}
			}
		}
		r.refuses("FLUSHALL nonsense", "syntax")
		o := r.dial(r.other)
		for _, line := range []string{"FLUSHALL", "FLUSHALL SYNC", "FLUSHDB"} {
			o.want("SELECT 3", ok)
			o.want("SET k v", ok)
			r.says("DBSIZE", ":1\r\n")
			if line != "FLUSHDB" { // of which a client may be in a database that is not in the map
				o = r.dial(r.other)
			}
			o.want(line, ok)
			r.says("DBSIZE", ":0\r\n")
		}
		c := r.dial(r.parts)
		for _, k := range r.key {
			r.says("SET "+k+" foreign", ok)
		}
		for _, line := range []string{"FLUSHDB", "FLUSHALL", "FLUSHALL ASYNC"} {
			for i := range 20 {
				c.want(fmt.Sprintf("SET k%d v", i), ok)
			}
			c.want("SELECT 1", ok)
			c.want("SET k v", ok)
			c.want("SELECT 0", ok)
			c.want("DBSIZE", ":20\r\n")
			c.want(line, ok)
			c.want("DBSIZE", ":0\r\n")
			c.want("SELECT 1", ok)
			if got := c.do("EXISTS k"); got != fmt.Sprintf(":%d\r\n", map[bool]int{true: 1}[line == "FLUSHDB"]) {
				r.Errorf("%s: of the other database there is %q", line, got)
			}
			c.want("SELECT 0", ok)
		}
		r.says("MGET "+strings.Join(r.key, " "), list("foreign", "foreign", "foreign"))
	},
	"SELECT": func(r *rowStage) {
		r.says("SELECT 0", ok)
		r.refuses("SELECT 1", "database map")
		c := r.dial(r.parts)
		c.want("SELECT 1", ok)
		c.want("SET k v", ok)
		c.want("SELECT 0", ok)
		c.want("EXISTS k", ":0\r\n")
		if got := c.do("SELECT 2"); !strings.Contains(got, "database map") {
			r.Errorf("SELECT 2 of two: %q", got)
		}
		r.says("KEYS *", list("b:k"))
	},
	"MOVE SWAPDB COPY": func(r *rowStage) {
		r.says("SET {t}a v", ok)
		r.says("COPY {t}a {t}b DB 0", ":1\r\n")
		for _, line := range []string{"MOVE {t}a 1", "MOVE {t}a 0", "SWAPDB 0 1", "SWAPDB 0 0", "COPY {t}a {t}c DB 1"} {
			if got := r.a.do(line); got[0] != '-' {
				r.Errorf("%s: %q", line, got)
			}
		}
		c := r.dial(r.parts)
		c.want("SET {t}k v EX 1000", ok)
		c.want("MOVE {t}k 1", ":1\r\n")
		c.want("MOVE {t}k 1", ":0\r\n")
		c.want("SET {t}k w", ok)
		c.want("MOVE {t}k 1", ":0\r\n")
		c.want("COPY {t}k {t}l DB 1", ":1\r\n")
		far := "far" // in other slots behind the two prefixes
		c.want("SET "+far+" v", ok)
		for _, line := range []string{"MOVE " + far + " 1", "COPY " + far + " " + far + " DB 1"} {
			if got := c.do(line); !strings.HasPrefix(got, "-CROSSSLOT") {
				r.Errorf("%s: %q", line, got)
			}
		}
		c.want("GET "+far, "$1\r\nv\r\n")
		if got := c.do("SWAPDB 0 1"); !strings.Contains(got, "SWAPDB is refused") {
			r.Errorf("SWAPDB of prefixes: %q", got)
		}
		c.want("SELECT 1", ok)
		c.want("MGET {t}k {t}l", list("v", "w"))
		c.want("PERSIST {t}k", ":1\r\n")
	},
	"MULTI EXEC DISCARD": func(r *rowStage) {
		r.says("MULTI", ok)
		r.says("EXEC", "*0\r\n")
		r.says("MULTI", ok)
		r.says("SET "+r.key[0]+" 1", "+QUEUED\r\n")
		r.refuses("SET "+r.key[1]+" 1", "CROSSSLOT")
		r.refuses("EXEC", "EXECABORT")
		r.says("EXISTS "+r.key[0]+" "+r.key[1], ":0\r\n")
		for _, line := range []string{"DBSIZE", "KEYS *", "SCAN 0", "SCRIPT EXISTS x"} {
			r.says("MULTI", ok)
			r.refuses(line, "cannot be part of a transaction")
			r.refuses("EXEC", "EXECABORT")
		}
		r.says("MULTI", ok)
		r.says("INCR "+r.key[2], "+QUEUED\r\n")
		r.says("DISCARD", ok)
		r.says("MULTI", ok)
		r.says("INCR "+r.key[2], "+QUEUED\r\n")
		r.cluster.Move(r.cluster.Masters()[0], hash.Of([]byte(r.key[2])))
		r.says("EXEC", "*1\r\n:1\r\n")
		r.cluster.Move(r.cluster.Masters()[2], hash.Of([]byte(r.key[2])))
	},
	"WATCH": func(r *rowStage) {
		r.says("WATCH "+r.key[0], ok)
		r.refuses("WATCH "+r.key[1], "CROSSSLOT")
		r.b.want("SET "+r.key[0]+" 1", ok)
		r.says("MULTI", ok)
		r.says("INCR "+r.key[0], "+QUEUED\r\n")
		r.says("EXEC", "*-1\r\n")
		r.says("WATCH "+r.key[1], ok)
		r.says("MULTI", ok)
		r.says("INCR "+r.key[1], "+QUEUED\r\n")
		r.says("EXEC", "*1\r\n:1\r\n")
	},
	"Waiting commands": func(r *rowStage) {
		for _, line := range []string{"BLPOP %s %s 1", "BRPOP %s %s 1", "BLMOVE %s %s LEFT LEFT 1", "BRPOPLPUSH %s %s 1", "BZPOPMIN %s %s 1", "BLMPOP 1 2 %s %s LEFT", "BZMPOP 1 2 %s %s MIN", "XREAD BLOCK 10 STREAMS %s %s 0 0"} {
			r.refuses(fmt.Sprintf(line, r.key[0], r.key[1]), "CROSSSLOT")
		}
		r.says("BLPOP "+r.key[0]+" 0.01", "*-1\r\n")
		for _, k := range r.key {
			r.a.send("BLPOP " + k + " 0")
			r.b.want("RPUSH "+k+" v w", ":2\r\n")
			r.a.expect(list(k, "v"))
			r.says("LLEN "+k, ":1\r\n")
		}
		id, _, _ := strings.Cut(strings.TrimPrefix(r.a.do("CLIENT ID"), ":"), "\r\n")
		r.a.send("XREAD BLOCK 0 STREAMS st $")
		until(r, "it is unblocked", func() bool { return r.b.do("CLIENT UNBLOCK "+id) == ":1\r\n" })
		r.a.expect("*-1\r\n")
	},
	"SUBSCRIBE PSUBSCRIBE PUBLISH": func(r *rowStage) {
		sub := r.dial(r.one)
		sub.want("SUBSCRIBE news", "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n")
		sub.want("PSUBSCRIBE n*", "*3\r\n$10\r\npsubscribe\r\n$2\r\nn*\r\n:2\r\n")
		for i := range 10 {
			r.says(fmt.Sprintf("PUBLISH news %d", i), ":2\r\n")
			sub.expect(list("message", "news", fmt.Sprint(i)))
			sub.expect(list("pmessage", "n*", "news", fmt.Sprint(i)))
		}
		// From a client of the cluster itself, at each of its nodes.
		for i := range r.key {
			r.on(i, "PUBLISH", "news", "there")
			sub.expect(list("message", "news", "there"))
			sub.expect(list("pmessage", "n*", "news", "there"))
		}
		sub.quiet(list("pong", ""))
	},
	"SSUBSCRIBE SPUBLISH": func(r *rowStage) {
		sub := r.dial(r.one)
		for i, k := range r.key {
			sub.want("SSUBSCRIBE "+k, fmt.Sprintf("*3\r\n$10\r\nssubscribe\r\n$%d\r\n%s\r\n:%d\r\n", len(k), k, i+1))
		}
		for _, k := range r.key {
			r.says("SPUBLISH "+k+" x", ":1\r\n")
			sub.expect(list("smessage", k, "x"))
		}
		r.says("SPUBLISH nobody x", ":0\r\n")
	},
	"PUBSUB": func(r *rowStage) {
		until(r, "those of other rows are gone", func() bool { return r.a.do("PUBSUB CHANNELS") == "*0\r\n" && r.a.do("PUBSUB NUMPAT") == ":0\r\n" })
		sub := r.dial(r.one)
		sub.do("SUBSCRIBE told")
		sub.do("SUBSCRIBE __keyevent@0__:set")
		sub.do("PSUBSCRIBE z*")
		sub.do("SSUBSCRIBE " + r.key[1])
		if got := sortedKeys(r, r.a.do("PUBSUB CHANNELS")); !slices.Equal(got, []string{"__keyevent@0__:set", "told"}) {
			r.Errorf("PUBSUB CHANNELS: %q", got)
		}
		r.says("PUBSUB NUMSUB told none __keyevent@0__:set", "*6\r\n$4\r\ntold\r\n:1\r\n$4\r\nnone\r\n:0\r\n$18\r\n__keyevent@0__:set\r\n:1\r\n")
		r.says("PUBSUB NUMPAT", ":1\r\n")
		r.says("PUBSUB SHARDCHANNELS", list(r.key[1]))
		r.says("PUBSUB SHARDNUMSUB "+r.key[1], fmt.Sprintf("*2\r\n$%d\r\n%s\r\n:1\r\n", len(r.key[1]), r.key[1]))
	},
	"Notifications of keys": func(r *rowStage) {
		sub := r.dial(r.one)
		sub.do("PSUBSCRIBE __keyevent@0__:*")
		for _, k := range r.key {
			r.says("SET "+k+" x", ok)
			sub.expect(list("pmessage", "__keyevent@0__:*", "__keyevent@0__:set", k))
		}
		// Each of two prefixes by its number, and nobody else's.
		part := r.dial(r.parts)
		part.do("PSUBSCRIBE __keyevent@*__:set")
		part.do("SUBSCRIBE __keyspace@1__:k")
		w := r.dial(r.parts)
		for range 3 {
			r.says("SET "+r.key[0]+" foreign", ok)
			w.want("SELECT 0", ok)
			w.want("SET k v", ok)
			part.expect(list("pmessage", "__keyevent@*__:set", "__keyevent@0__:set", "k"))
			w.want("SELECT 1", ok)
			w.want("SET k v", ok)
			got := []string{part.next(), part.next()}
			slices.Sort(got)
			if want := []string{list("message", "__keyspace@1__:k", "set"), list("pmessage", "__keyevent@*__:set", "__keyevent@1__:set", "k")}; !slices.Equal(got, want) {
				r.Errorf("of a key behind a prefix comes %q, want %q", got, want)
			}
		}
	},
	"WAIT WAITAOF": func(r *rowStage) {
		for _, k := range r.key {
			r.says("SET "+k+" x", ok)
		}
		r.says("WAIT 0 10", ":0\r\n")
		r.says("WAIT 1 10", ":0\r\n")
		r.refuses("WAIT x 10", "not an integer")
		if got := r.a.do("WAITAOF 0 0 10"); got != "*2\r\n:0\r\n:0\r\n" && !strings.Contains(got, "unknown command") {
			r.Errorf("WAITAOF: %q", got)
		}
	},
	"OBJECT MEMORY DEBUG XINFO XGROUP DUMP RESTORE": func(r *rowStage) {
		for _, k := range r.key {
			r.says("SET "+k+" 12", ok)
			r.says("OBJECT ENCODING "+k, "$3\r\nint\r\n")
			r.has("MEMORY USAGE "+k, ":")
			r.has("DEBUG OBJECT "+k, "encoding:int")
			r.has("DEBUG DIGEST-VALUE "+k, "*1\r\n")
			dump, _, _ := resp.Text([]byte(r.a.do("DUMP " + k)))
			r.a.write(wireOf([]byte("RESTORE"), []byte(k), []byte("0"), dump, []byte("REPLACE")))
			r.a.expect(ok)
			r.says("GETDEL "+k, "$2\r\n12\r\n")
			r.says("XGROUP CREATE "+k+" g $ MKSTREAM", ok)
			r.has("XINFO GROUPS "+k, "$1\r\ng\r\n")
			r.says("XGROUP DESTROY "+k+" g", ":1\r\n")
		}
		r.refuses("DEBUG DIGEST-VALUE "+r.key[0]+" "+r.key[1], "CROSSSLOT")
		r.refuses("DEBUG DIGEST", "one server's process")
		r.refuses("MEMORY STATS", "one server's process")
		r.says("MEMORY PURGE", ok)
	},
	"INFO": func(r *rowStage) {
		for _, k := range r.key {
			r.says("SET "+k+" x", ok)
		}
		r.has("INFO", "redis_mode:standalone\r\n", "cluster_enabled:0\r\n", "role:master\r\n", "connected_slaves:0\r\n", "db0:keys=3,")
		r.has("INFO keyspace", "db0:keys=3,expires=0,avg_ttl=0\r\n")
		r.has("INFO server", "redis_version:")
	},
	"CONFIG SLOWLOG LATENCY ACL MODULE SHUTDOWN REPLICAOF": func(r *rowStage) {
		r.says("CONFIG SET maxmemory-samples 7", ok)
		for i := range r.key {
			if got := fmt.Sprint(r.on(i, "CONFIG", "GET", "maxmemory-samples")); !strings.Contains(got, "7") {
				r.Errorf("master %d says %s", i, got)
			}
		}
		r.says("CONFIG GET maxmemory-samples", list("maxmemory-samples", "7"))
		r.says("CONFIG RESETSTAT", ok)
		r.says("SLOWLOG RESET", ok)
		r.says("SLOWLOG LEN", ":0\r\n")
		r.says("SLOWLOG GET", "*0\r\n")
		r.says("ACL WHOAMI", "$7\r\ndefault\r\n")
		r.says("MODULE LIST", "*0\r\n")
		r.has("LASTSAVE", ":")
		for line, word := range map[string]string{"LATENCY LATEST": "one server's process", "ACL SETUSER x": "each of its nodes", "ACL DELUSER x": "each of its nodes", "MODULE LOAD x": "each of its nodes",
			"SHUTDOWN NOSAVE": "one server's process", "REPLICAOF NO ONE": "replication", "FAILOVER": "replication", "MIGRATE h 1 a 0 1": "moves its keys"} {
			r.refuses(line, word)
		}
	},
	"COMMAND": func(r *rowStage) {
		r.has("COMMAND COUNT", ":")
		r.has("COMMAND INFO get", "$3\r\nget\r\n")
		r.says("COMMAND GETKEYS MSET a 1 b 2", list("a", "b"))
		r.has("COMMAND DOCS get", "summary")
	},
	"CLUSTER READONLY READWRITE ASKING": func(r *rowStage) {
		for _, line := range []string{"CLUSTER SLOTS", "CLUSTER NODES", "CLUSTER INFO", "CLUSTER KEYSLOT a", "READONLY", "READWRITE", "ASKING"} {
			r.says(line, "-ERR This instance has cluster support disabled\r\n")
		}
	},
	"ROLE HELLO": func(r *rowStage) {
		if got := r.a.do("ROLE"); !strings.HasPrefix(got, "*3\r\n$6\r\nmaster\r\n:") || !strings.HasSuffix(got, "*0\r\n") {
			r.Errorf("ROLE: %q", got)
		}
		r.has("HELLO", "standalone", "$4\r\nrole\r\n$6\r\nmaster\r\n")
	},
	"CLIENT": func(r *rowStage) {
		c := r.dial(r.one)
		c.want("CLIENT SETNAME me", ok)
		for _, k := range r.key {
			c.want("SET "+k+" x", ok)
			c.want("CLIENT GETNAME", "$2\r\nme\r\n")
		}
		c.want("CLIENT NO-EVICT on", ok)
		c.want("CLIENT REPLY ON", ok)
		c.send("CLIENT REPLY SKIP", "PING", "ECHO x")
		c.expect("$1\r\nx\r\n")
		id := c.do("CLIENT ID")
		if got := c.do("CLIENT INFO"); !strings.Contains(got, "id="+strings.Trim(id, ":\r\n")+" ") || !strings.Contains(got, " name=me ") {
			r.Errorf("CLIENT INFO: %q, of the client %q", got, id)
		}
		r.refuses("CLIENT LIST", "its own clients")
		r.refuses("CLIENT KILL 1.2.3.4:5", "its own clients")
		r.refuses("CLIENT KILL ID 5", "its own clients")
		r.says("CLIENT UNBLOCK 999999", ":0\r\n")
		r.says("CLIENT PAUSE 1", ok)
		r.says("CLIENT UNPAUSE", ok)
	},
	"CLIENT TRACKING": func(r *rowStage) {
		r.refuses("CLIENT TRACKING ON", "RESP3")
		r.says("CLIENT TRACKING OFF", ok)
		r.three.want("CLIENT TRACKING ON", ok)
		for _, k := range r.key {
			r.three.send("GET " + k)
			r.hears(r.three, "_\r\n")
			r.says("SET "+k+" x", ok)
			r.hears(r.three, ">2\r\n$10\r\ninvalidate\r\n"+list(k))
		}
		r.three.send("CLIENT TRACKING OFF")
		r.hears(r.three, ok)
		// Behind a prefix: its own keys, by the client's names.
		c, w := r.dial(r.parts), r.dial(r.parts)
		c.do("HELLO 3")
		c.want("CLIENT TRACKING ON BCAST", ok)
		for i := range 5 {
			r.says(fmt.Sprintf("SET x%d foreign", i), ok)
			w.want(fmt.Sprintf("SET x%d v", i), ok)
			r.hears(c, fmt.Sprintf(">2\r\n$10\r\ninvalidate\r\n*1\r\n$2\r\nx%d\r\n", i))
		}
		r.refuses("CLIENT TRACKING ON REDIRECT 1", "cannot redirect")
	},
	"RESET QUIT PING ECHO TIME AUTH": func(r *rowStage) {
		c := r.dial(r.one)
		c.want("PING", "+PONG\r\n")
		c.want("PING x", "$1\r\nx\r\n")
		c.want("ECHO x", "$1\r\nx\r\n")
		if got := c.do("TIME"); !strings.HasPrefix(got, "*2\r\n") {
			r.Errorf("TIME: %q", got)
		}
		if got := c.do("AUTH x"); !strings.HasPrefix(got, "-ERR AUTH") {
			r.Errorf("AUTH: %q", got)
		}
		c.do("SUBSCRIBE a")
		c.want("PING", list("pong", ""))
		c.want("RESET", "+RESET\r\n")
		c.want("PING", "+PONG\r\n")
		c.want("QUIT", ok)
		c.expect("EOF")
	},
	"MONITOR SYNC PSYNC": func(r *rowStage) {
		for _, line := range []string{"MONITOR", "SYNC", "PSYNC ? -1"} {
			r.refuses(line, "no one stream")
		}
		r.says("PING", "+PONG\r\n")
	},
	"Commands that are not in the table": func(r *rowStage) {
		r.refuses("NOSUCH a", "unknown command 'NOSUCH'")
		for _, k := range r.key {
			r.says("FETCH "+k+" 0 -1", "$0\r\n\r\n")
			r.says("SET "+k+" x", ok)
			r.says("FETCH "+k+" 0 -1", "$1\r\nx\r\n")
		}
		r.refuses("HOWMANY", "nobody knows to which nodes")
	},
}

func (r *rowStage) says(line, reply string) {
	r.Helper()
	if got := r.a.do(line); got != reply {
		r.Errorf("%s: %q, want %q", line, got, reply)
	}
}

func (r *rowStage) refuses(line, word string) {
	r.Helper()
	if got := r.a.do(line); got[0] != '-' || !strings.Contains(got, word) {
		r.Errorf("%s: %q, which is no error with the words %q", line, got, word)
	}
}

func (r *rowStage) has(line string, words ...string) {
	r.Helper()
	got := r.a.do(line)
	for _, word := range words {
		if got[0] == '-' || !strings.Contains(got, word) {
			r.Errorf("%s: %q lacks %q", line, got, word)
		}
	}
}

// on says a command to a master itself.
func (r *rowStage) on(i int, args ...any) any {
	r.Helper()
	v, err := r.cluster.On(r.cluster.Masters()[i]).Do(r.Context(), args...).Result()
	if err != nil {
		r.Errorf("master %d: %v: %v", i, args, err)
	}
	return v
}

func (r *rowStage) scan(c *raw, options string) map[string]bool {
	r.Helper()
	return r.pages(c, "SCAN", options)
}

// pages are all that a command shows that has a cursor for its last word but the options.
func (r *rowStage) pages(c *raw, command, options string) map[string]bool {
	r.Helper()
	found := make(map[string]bool)
	for i, cursor := 0, "0"; i < 1000; i++ {
		halves := resp.Elements([]byte(c.do(command + " " + cursor + options)))
		if len(halves) != 2 {
			r.Fatalf("%s %s%s: %q", command, cursor, options, halves)
		}
		for _, k := range sortedKeys(r, string(halves[1])) {
			found[k] = true
		}
		text, _, _ := resp.Text(halves[0])
		if cursor = string(text); cursor == "0" {
			return found
		}
	}
	r.Fatalf("%s has no end", command)
	return nil
}

// TestClusterRows says each row of docs/clusters.md to a cluster, through the proxy.
func TestClusterRows(t *testing.T) {
	page, err := os.ReadFile("../docs/clusters.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, m := range regexp.MustCompile(`(?m)^\| ([^|]+) \|`).FindAllStringSubmatch(string(page), -1)[1:] {
		rows = append(rows, m[1])
		if clusterRows[m[1]] == nil {
			t.Errorf("the row %q has no test", m[1])
		}
	}
	if len(rows) != len(clusterRows) {
		t.Errorf("%d rows and %d tests", len(rows), len(clusterRows))
	}
	c := redistest.StartCluster(t, 3, 0, redistest.WithConfig("notify-keyspace-events", "KEA"), redistest.WithConfig("lua-time-limit", "20"),
		redistest.WithConfig("enable-debug-command", "yes"), redistest.WithRenamed("substr", "fetch"), redistest.WithRenamed("lolwut", "howmany"))
	r := rowStage{cluster: c, one: newFleetWorld(t, c, map[int]router.Place{0: {}}), other: newFleetWorld(t, c, map[int]router.Place{3: {}}),
		parts: newFleetWorld(t, c, map[int]router.Place{0: {Prefix: "a:"}, 1: {Prefix: "b:"}})}
	for _, w := range []*world{r.one, r.other, r.parts} {
		w.switchTo(router.Target)
	}
	for _, s := range c.Masters() {
		for n := uint16(0); n < hash.Count; n += 500 { // each asks the nodes
			if c.Owner(n) == s {
				r.key = append(r.key, "{"+hash.Tag(n)+"}k")
				break
			}
		}
	}
	for _, name := range rows {
		if clusterRows[name] == nil {
			continue
		}
		t.Run(name, func(t *testing.T) {
			r := r
			r.T = t
			for i := range r.key {
				r.on(i, "FLUSHALL")
			}
			r.a, r.b, r.three = r.dial(r.one), r.dial(r.one), r.dial(r.one)
			r.three.do("HELLO 3")
			clusterRows[name](&r)
		})
	}
}

func (r *rowStage) dial(w *world) *raw { return dialRaw(r, w.proxy.Addr().String()) }

// everything is what a client is told after the cluster has changed, at whatever time.
const everything = ">2\r\n$10\r\ninvalidate\r\n_\r\n"

// hears is expect, but for that.
func (r *rowStage) hears(c *raw, want string) {
	r.Helper()
	got := c.next()
	for got == everything {
		got = c.next()
	}
	if got != want {
		r.Errorf("it hears %q, want %q", got, want)
	}
}
