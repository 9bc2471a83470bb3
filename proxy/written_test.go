package proxy

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/keyspec"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/redis/go-redis/v9"
)

// writing are commands in an order in which each is tried on keys that are there
// and keys that are not, with what changes them and what does not.
const writing = `
set a 1|set a 2 nx|set b 1 nx|set a 3 xx get|set c 1 get|get a|setnx a 1|setnx d 1|setex e 100 v|psetex e 100000 v|getset a 5|getset new 1
append a x|append new2 x|append a ""|setrange a 1 zz|setrange nokey 0 ""|setbit bits 3 1|setbit bits 3 1|incr n|incrby n 5|incrbyfloat n 1.5|incr a|decr m|decrby m 2
mset x 1 y 2|msetnx x 1 z 2|msetnx p 1 q 2|getdel p|getdel p|getex q|getex q ex 100|getex q persist|bitop or dest a b|bitop or gone nokey nokey2|bitfield bits set u8 0 200
lpush l 1 2 3|rpush l 4|lpushx nolist 1|rpushx l 5|linsert l before 3 x|linsert l before nope x|lset l 0 first|lset nolist 0 x|lrem l 0 nope|lrem l 0 x|ltrim l 0 -1|ltrim nolist 0 1
lpop l|rpop l|lpop nolist|lmove l l2 left right|lmove nolist l2 left right|rpoplpush l l|lmpop 2 nolist l left|lpop l2 0|lpop l2 5|lpos l 4
sadd s 1 2 3|sadd s 1|srem s 9|srem s 1|spop s|spop nos|spop s 0|sadd s 4 5|smove s s2 4|smove s s 5|smove s s2 nope|sinterstore si s s2|sinterstore si s s|sunionstore su s s2|sdiffstore sd nos s|smembers s
zadd z 1 m|zadd z 1 m|zadd z 2 m|zadd z xx ch 3 m|zadd z nx 5 m|zincrby z 0 m|zincrby z 1 m|zrem z nope|zadd z 1 o 2 p|zrem z o|zpopmin z|zpopmax noz|zremrangebyrank z 0 0|zremrangebyscore z 5 6
zadd z 1 a 2 b 3 c|zremrangebylex z [x [y|zrangestore zr z 0 1|zrangestore zr noz 0 1|zunionstore zu 2 z zr|zinterstore zi 2 z noz|zdiffstore zd 1 z|zmpop 2 noz z min|geoadd g 13 38 Palermo|geoadd g 13 38 Palermo|geosearchstore gs g fromlonlat 13 38 byradius 10 km|georadius g 13 38 10 km store gr
hset h f 1|hset h f 1|hset h f 2 g 3|hsetnx h f 1|hsetnx h k 1|hdel h nope|hdel h k|hincrby h n 0|hincrby h n 1|hincrbyfloat h n 1.5|hmset h q 1|hget h q
xadd st 1-1 f v|xadd st 2-1 f v|xadd nost nomkstream * f v|xdel st 9-9|xdel st 1-1|xtrim st maxlen 10|xtrim st maxlen 0|xgroup create st grp $|xsetid st 5-5
pfadd hll 1 2|pfadd hll 1|pfmerge hll2 hll|pfmerge hll3 nohll|sort l store sorted|sort nolist store sorted|sort l
expire a 100|expire a 100 nx|expire nokey 100|persist a|persist a|expireat a 1|pexpire b 100000|pexpireat b 1|rename x x2|rename nokey k|renamenx y x2|renamenx y y2|rename y2 y2
copy h hcopy|copy h hcopy|copy h hother db 3|move hcopy 3|move nokey 3|dump h|del nokey|del h|del nokey s z|unlink st|unlink nokey l|set past 1 exat 1|set b 1|set b 2 exat 1
blpop nolist 0.01|rpush bl 1 2 3 4|blpop bl 1|brpop nolist bl 1|blmove bl bl2 left right 1|brpoplpush bl bl3 1|zadd bz 1 a 2 b|bzpopmin bz 1|bzmpop 1 1 bz min|blmpop 1 2 nolist bl2 left
eval return(redis.call('set',KEYS[1],1)) 1 scripted|eval return(redis.call('set','undeclared',1)) 0|eval return(1) 0|getset big LARGE|set big LARGE|append big LARGE
set "" 1|incr ""|mset z1 1 "" 2|mset "" 1 z1 2|del "" z1|del "" nokey|lpush "" 1|blpop "" 1
multi|set intx 1|incr intx|del nokey|lpush txl 1|exec|multi|set dropped 1|discard|multi|eval return(redis.call('set','undeclared',2)) 0|exec`

// TestWritesAreWhatTheServerTells compares what is said of each command with the
// events that the server has for it: none without a write that names the key, or
// says that it cannot, and none missing for a write that is sure.
func TestWritesAreWhatTheServerTells(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	events := make(map[string]int)
	sub := w.source.Client(0)
	if err := sub.ConfigSet(ctx, "notify-keyspace-events", "KEA").Err(); err != nil {
		t.Fatal(err)
	}
	ps := sub.PSubscribe(ctx, "__keyevent@*__:*")
	defer func() { _ = ps.Close() }()
	if _, err := ps.Receive(ctx); err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(redistest.Options(w.proxy.Addr().String(), 0))
	defer func() { _ = c.Close() }()
	conn := c.Conn()
	defer func() { _ = conn.Close() }()

	var said map[string]bool // key → sure
	var unknown bool
	w.heard.mu.Lock()
	w.heard.writes = func(writes []Write) {
		for _, one := range writes {
			if one.Key == nil {
				unknown = true
				continue
			}
			k := fmt.Sprintf("%d %s", one.DB, one.Key)
			said[k] = said[k] || one.Sure
		}
	}
	w.heard.mu.Unlock()
	sure, none := 0, 0
	for cmd := range strings.FieldsFuncSeq(writing, func(r rune) bool { return r == '|' || r == '\n' }) {
		w.heard.mu.Lock()
		said, unknown = make(map[string]bool), false
		w.heard.mu.Unlock()
		args := []any{}
		for word := range strings.FieldsSeq(cmd) {
			switch word {
			case `""`:
				word = ""
			case "LARGE":
				word = strings.Repeat("x", 300<<10)
			}
			args = append(args, word)
		}
		_ = conn.Do(ctx, args...).Err() // many are refused, and shall be
		// The loop hands over at the end of its round: by the next reply it has.
		for range 2 {
			if err := conn.Ping(ctx).Err(); err != nil && !strings.Contains(err.Error(), "QUEUED") {
				t.Fatal(err)
			}
		}
		clear(events)
		if err := ps.Ping(ctx, "barrier"); err != nil {
			t.Fatal(err)
		}
		receiveEvents(ctx, t, ps, events)
		w.heard.mu.Lock()
		for k := range events {
			if _, named := said[k]; !named && !unknown {
				t.Errorf("%.60s: the server tells of %q, the proxy of %v", cmd, k, said)
			}
		}
		for k, certain := range said {
			if certain {
				sure++
			}
			if certain && events[k] == 0 {
				t.Errorf("%.60s: the proxy is sure of %q, the server tells of %v", cmd, k, events)
			}
		}
		if len(said) == 0 && !unknown {
			none++
		}
		w.heard.mu.Unlock()
	}
	t.Logf("%d keys were sure to have changed, %d commands changed nothing", sure, none)
	if sure < 60 || none < 30 {
		t.Errorf("%d keys were sure to have changed, %d commands changed nothing: too few to say anything", sure, none)
	}
}

// receiveEvents reads up to the answer to the barrier. What the server does by
// itself is left out.
func receiveEvents(ctx context.Context, t *testing.T, ps *redis.PubSub, events map[string]int) {
	t.Helper()
	for {
		got, err := ps.Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		switch m := got.(type) {
		case *redis.Pong:
			return
		case *redis.Message:
			channel := strings.TrimPrefix(m.Channel, "__keyevent@")
			db, event, _ := strings.Cut(channel, "__:")
			if event != "expired" && event != "new" {
				events[db+" "+m.Payload]++
			}
		}
	}
}

// Replies come in pieces, and more commands than are remembered.
func TestWritesOfADeepPipeline(t *testing.T) {
	w := newWorld(t)
	keys := make(map[string]int)
	w.heard.mu.Lock()
	w.heard.writes = func(writes []Write) {
		for _, one := range writes {
			keys[string(one.Key)]++
		}
	}
	w.heard.mu.Unlock()
	c := redis.NewClient(redistest.Options(w.proxy.Addr().String(), 0))
	defer func() { _ = c.Close() }()
	const n = 20_000
	pipe := c.Pipeline()
	for i := range n {
		pipe.Set(t.Context(), fmt.Sprintf("deep:%d", i), i, 0)
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, patience, func() bool { return w.heard.wrote.Load() >= n }, "all are told")
	w.heard.mu.Lock()
	defer w.heard.mu.Unlock()
	for i := range n {
		if k := fmt.Sprintf("deep:%d", i); keys[k] != 1 {
			t.Fatalf("key %q was told %d times", k, keys[k])
		}
	}
}

// A reply may come in pieces, and an empty string is something.
func TestWhatReplyProves(t *testing.T) {
	for _, test := range []struct {
		form      replyForm
		reply     string
		may, sure bool
	}{
		{someChanges, "$-1\r\n", false, false}, {someChanges, "_\r\n", false, false}, {someChanges, "*0\r\n", false, false}, {someChanges, "~0\r\n", false, false},
		{someChanges, "*-1\r\n", false, false}, {someChanges, "$0\r\n\r\n", true, true}, {someChanges, "$1\r\n-\r\n", true, true}, {someChanges, "*1\r\n", true, true},
		{someChanges, "$", true, false}, {someChanges, "*", true, false}, {someChanges, "-ERR x\r\n", false, false},
		{countChanges, ":0\r\n", false, false}, {countChanges, ":1\r\n", true, true}, {countChanges, ":", true, false}, {countChanges, ":-1\r\n", true, false},
		{okChanges, "+OK\r\n", true, true}, {okChanges, "+", true, true}, {okChanges, "$-1\r\n", true, false}, {anyChanges, ":0\r\n", true, true}, {anyChanges, "!21\r\n", false, false},
	} {
		if may, sure := test.form.proves(headOf([]byte(test.reply))); may != test.may || sure != test.sure {
			t.Errorf("%d, %q: may %v, sure %v", test.form, test.reply, may, sure)
		}
	}
}

// What the test above has no server for is here too.
func TestKeysOfWrites(t *testing.T) {
	for line, want := range map[string]string{
		"MSETEX 2 a 1 b 2 EX 5": "a b", "MSETEX 1 a 1": "a", "MSETEX 9 a 1": "", "MSETEX x a 1": "", "LMPOP 2 a b LEFT": "a b", "BLMPOP 0 2 a b LEFT": "a b", "BLMPOP 0 2": "",
		"SORT l STORE d": "d", "SORT l": "", "DEL a b c": "a b c", "MSET a 1 b 2": "a b", "BLPOP a b 0": "a b", "LMOVE a b LEFT LEFT": "a b", "COPY a b DB 3": "b",
	} {
		args, _ := resp.SplitArgs([]byte(line))
		if got := strings.Join(lookup(args[0]).keysIn(args, keyspec.Writes), " "); got != want {
			t.Errorf("%s writes %q, want %q", line, got, want)
		}
	}
}
