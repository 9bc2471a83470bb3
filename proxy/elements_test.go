package proxy

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/elements"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// changing are commands on h, s and z in an order in which each is tried on elements
// that are there and elements that are not. Those after a + must be explained.
const changing = `
+hset h a 1|+hset h a 1|+hset h a 2 b 3 c 4|+hmset h d 1 a 5|+hsetnx h e 1|hsetnx h e 2|hdel h nope|+hdel h e nope|+hincrby h n 0|+hincrby h n 5|hincrby h a x|+hincrbyfloat h n 1.5
hset h a|hset h|hdel h|hgetdel h fields 1 a|+hset h a 2|+hdel h a b c d n
+sadd s a b|sadd s a b|+sadd s a c|srem s nope|+srem s a nope|spop s|smove s t b|+sadd s d
+zadd z 1 a|zadd z 1 a|zadd z 2 a|+zadd z ch 3 a|zadd z ch 3 a|zadd z nx 4 a|+zadd z nx 4 b|+zadd z xx ch 5 b|zadd z xx 5 c|+zadd z gt ch 6 b|zadd z gt ch 5 b|zadd z lt 9 b|+zadd z lt ch 1 b 1 a
+zadd z incr 2 a|zadd z incr 0 a|zadd z nx incr 1 a|+zadd z xx incr -1 a|zadd z incr 1|zadd z incr 1 a 2 b|+zincrby z 1 a|+zincrby z 0.5 new|zincrby z 0 new|zincrby z x new
+zadd z 1e300 far|zincrby z 1 far|zadd z incr 1 far|+zadd z inf end|zincrby z 1 end|zadd z incr -inf end|+zincrby z 1e300 far|+zadd z 9007199254740992 even|zincrby z 1 even|+zincrby z 2 even
zrem z nope|+zrem z a nope|zadd z x a|zadd z 1|+geoadd z 13 38 Palermo|geoadd z 13 38 Palermo|+geoadd z ch 14 38 Palermo|zpopmin z|zremrangebyrank z 0 0`

// look reads all elements of a key.
func look(ctx context.Context, t *testing.T, c *redis.Client, key string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	var err error
	switch key {
	case "h":
		out, err = c.HGetAll(ctx, key).Result()
	case "s":
		var all []string
		all, err = c.SMembers(ctx, key).Result()
		for _, e := range all {
			out[e] = ""
		}
	case "z":
		var all []redis.Z
		all, err = c.ZRangeWithScores(ctx, key, 0, -1).Result()
		for _, e := range all {
			out[e.Member.(string)] = fmt.Sprint(e.Score)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// explaining compares what the books say of each command with what the server says:
// one that is explained has exactly one event, and changes nothing but what it names.
type explaining struct {
	t     *testing.T
	w     *world
	keys  *elements.Keys
	ps    *redis.PubSub
	conn  *redis.Conn
	count map[bool]int // events that were explained and that were not
}

func newExplaining(t *testing.T, pinned bool) *explaining {
	w := newWorld(t)
	ctx := t.Context()
	e := &explaining{t: t, w: w, keys: elements.NewKeys(router.Source), count: make(map[bool]int)}
	w.heard.books.Store(e.keys)
	src := w.source.Client(0)
	if err := src.ConfigSet(ctx, "notify-keyspace-events", "EA").Err(); err != nil {
		t.Fatal(err)
	}
	e.ps = src.PSubscribe(ctx, "__keyevent@0__:*")
	t.Cleanup(func() { _ = e.ps.Close() })
	if _, err := e.ps.Receive(ctx); err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(redistest.Options(w.proxy.Addr().String(), 0))
	t.Cleanup(func() { _ = c.Close() })
	e.conn = c.Conn()
	t.Cleanup(func() { _ = e.conn.Close() })
	if pinned {
		if err := e.conn.Do(ctx, "CLIENT", "ID").Err(); err != nil { // it keeps its connection from now on
			t.Fatal(err)
		}
		return e
	}
	redistest.Eventually(t, patience, func() bool {
		if err := e.conn.Ping(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		w.proxy.mu.Lock()
		defer w.proxy.mu.Unlock()
		return len(w.proxy.sessions) == 0 || *upstreams != "shared"
	}, "the client shares its connection")
	return e
}

// run runs a command on the key that it names and returns whether it was explained.
func (e *explaining) run(words ...string) bool {
	t, ctx, src := e.t, e.t.Context(), e.w.source.Client(0)
	t.Helper()
	key := "h"
	if len(words) > 1 {
		key = strings.ToLower(words[1])
	}
	before := look(ctx, t, src, key)
	book := e.keys.Put(0, key)
	defer e.keys.Drop(0, key)
	if mark, still := book.Still(); !still || !book.Base(mark) {
		t.Fatal("a new book is not still")
	}
	args := make([]any, len(words))
	for i, w := range words {
		args[i] = w
	}
	_ = e.conn.Do(ctx, args...).Err() // many are refused, and shall be
	names, explained, ok := book.Changed()
	if _, still := book.Still(); !ok || !still {
		t.Fatalf("%v: it was answered, and yet is under way, or not known", words)
	}
	n := e.told(key)
	if explained > 1 || explained == 1 && n != 1 {
		t.Errorf("%v: %d explanations of %d events", words, explained, n)
	}
	after := look(ctx, t, src, key)
	for name := range union(before, after) {
		a, hadA := before[name]
		b, hasB := after[name]
		if explained == 1 && (a != b || hadA != hasB) && !slices.Contains(names, name) {
			t.Errorf("%v: element %q has changed, and named are %v", words, name, names)
		}
	}
	if n > 0 {
		e.count[explained == 1]++
	}
	return explained == 1
}

// told returns how many events there have been of elements of a key. That of a key
// whose last element is gone is another matter.
func (e *explaining) told(key string) (n int) {
	e.t.Helper()
	if err := e.ps.Ping(e.t.Context(), "barrier"); err != nil {
		e.t.Fatal(err)
	}
	for {
		got, err := e.ps.Receive(e.t.Context())
		if err != nil {
			e.t.Fatal(err)
		}
		switch m := got.(type) {
		case *redis.Pong:
			return n
		case *redis.Message:
			_, event, _ := strings.Cut(m.Channel, "__:")
			if m.Payload == key && event != "del" && event != "new" {
				n++
			}
		}
	}
}

func union(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

func TestElementsAreWhatTheServerTells(t *testing.T) {
	for _, pinned := range []bool{false, true} {
		t.Run(fmt.Sprintf("pinned %v", pinned), func(t *testing.T) {
			e := newExplaining(t, pinned)
			for cmd := range strings.FieldsFuncSeq(changing, func(r rune) bool { return r == '|' || r == '\n' }) {
				text, must := strings.CutPrefix(cmd, "+")
				if got := e.run(strings.Fields(text)...); got != must {
					t.Errorf("%s: explained %v, want %v", text, got, must)
				}
			}
			t.Logf("%d events were explained, %d were not", e.count[true], e.count[false])
		})
	}
}

func TestRandomElementsAreWhatTheServerTells(t *testing.T) {
	t.Run("shared", func(t *testing.T) { randomElements(t, newExplaining(t, false)) })
	t.Run("pinned", func(t *testing.T) { randomElements(t, newExplaining(t, true)) })
}

func randomElements(t *testing.T, e *explaining) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	element := func() string { return pick("a", "b", "c", "d") }
	score := func() string {
		return pick("0", "1", "-1", "0.1", "1e16", "9007199254740993", "1e300", "inf", "-inf", "3e-320", "nan")
	}
	for range 700 {
		var words []string
		switch r.IntN(10) {
		case 0:
			words = []string{"HSET", "h", element(), score(), element(), score()}
		case 1:
			words = []string{pick("HINCRBY", "HINCRBYFLOAT"), "h", element(), score()}
		case 2:
			words = []string{"HSETNX", "h", element(), score()}
		case 3:
			words = []string{"HDEL", "h", element(), element()}
		case 4:
			words = []string{pick("SADD", "SREM"), "s", element(), element()}
		case 5:
			words = []string{"ZINCRBY", "z", score(), element()}
		case 6:
			words = []string{"ZREM", "z", element()}
		default:
			words = []string{"ZADD", "z"}
			for range r.IntN(3) {
				words = append(words, pick("NX", "XX", "GT", "LT", "CH", "INCR"))
			}
			for range 1 + r.IntN(2) {
				words = append(words, score(), element())
			}
		}
		e.run(words...)
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d events were explained, %d were not", e.count[true], e.count[false])
	if e.count[true] < 100 {
		t.Error("too few to say anything")
	}
}

// What cannot be told, or is another database's, is in no book.
func TestElementsOfAnotherDatabase(t *testing.T) {
	e := newExplaining(t, true)
	ctx, src := t.Context(), e.w.source.Client(0)
	books := []*elements.Key{e.keys.Put(0, "h"), e.keys.Put(3, "h")}
	explained := func() string {
		var out []int64
		for _, b := range books {
			mark, still := b.Still()
			if !still {
				t.Fatal("answered, and yet under way")
			}
			b.Base(mark)
			_, n, _ := b.Changed()
			out = append(out, n)
		}
		return fmt.Sprint(out)
	}
	if err := e.conn.HSet(ctx, "h", "f", 1).Err(); err != nil {
		t.Fatal(err)
	}
	if got := explained(); got != "[1 0]" {
		t.Errorf("explained are %s", got)
	}
	// The answer to SELECT is not there yet when the others are sent.
	pipe := e.conn.Pipeline()
	pipe.Do(ctx, "SELECT", 3)
	pipe.HSet(ctx, "h", "f", 1)
	pipe.Do(ctx, "SELECT", 0)
	pipe.HSet(ctx, "h", "f", 1)
	if _, err := pipe.Exec(ctx); err != nil {
		t.Fatal(err)
	}
	if got := explained(); got != "[1 0]" {
		t.Errorf("with SELECT under way, explained are %s", got)
	}
	tx := e.conn.TxPipeline()
	tx.HSet(ctx, "h", "f", 1)
	if _, err := tx.Exec(ctx); err != nil {
		t.Fatal(err)
	}
	if got := explained(); got != "[1 0]" {
		t.Errorf("after a transaction, explained are %s", got)
	}
	// A connection that is lost has explained nothing, and nothing is under way.
	if err := src.Do(ctx, "CLIENT", "PAUSE", patience.Milliseconds(), "WRITE").Err(); err != nil {
		t.Fatal(err)
	}
	lost := make(chan error, 1)
	go func() { lost <- e.conn.HSet(ctx, "h", "f", 2).Err() }()
	redistest.Eventually(t, patience, func() bool { _, still := books[0].Still(); return !still }, "it is under way")
	if err := src.ClientKillByFilter(ctx, "TYPE", "normal", "SKIPME", "yes").Err(); err != nil {
		t.Fatal(err)
	}
	if err := <-lost; err == nil {
		t.Error("it was answered")
	}
	redistest.Eventually(t, patience, func() bool { _, still := books[0].Still(); return still }, "nothing is under way")
	if got := explained(); got != "[1 0]" {
		t.Errorf("with the connection lost, explained are %s", got)
	}
}
