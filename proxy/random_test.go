package proxy

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
)

var (
	randomRounds = flag.Int("rounds", 2, "of TestRandomSessions, for each of its ways")
	randomSeed   = flag.Uint64("from", 0, "the first seed of TestRandomSessions; 0: another each time")
)

// ended is how live says that the connection was closed.
var ended = regexp.MustCompile(`^<(EOF|.*reset by peer)>$`)

// life is what a client does, made up at random, and as much of its own state as is
// needed to leave out what no two servers would answer alike.
type life struct {
	rng     *rand.Rand
	name    string
	proto   int
	subs    map[string]bool
	multi   bool
	lim     bool // it is a user who may do less
	silent  bool // CLIENT REPLY OFF
	skip    bool // … or SKIP, for the next command
	plain   bool // without what a switch may change
	watched bool // it may watch keys
	lines   []string
}

// say adds a command.
func (l *life) say(format string, args ...any) {
	l.skip = false
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *life) key() string { return fmt.Sprintf("%s:k%d", l.name, l.rng.IntN(3)) }

func (l *life) in2Subscribed() bool { return l.proto == 2 && len(l.subs) > 0 }

// step adds what comes next.
func (l *life) step() {
	switch n := l.rng.IntN(100); {
	case n < 40:
		l.command()
	case n < 55:
		l.transaction()
	case n < 70:
		l.subscription()
	case n < 80:
		l.connection()
	case n < 88:
		l.silence()
	case n < 94:
		l.block()
	case !l.plain:
		l.track()
	}
}

func (l *life) command() {
	k := l.key()
	all := []string{"GET " + k, "SET " + k + " v", "INCR " + l.name + ":n", "APPEND " + k + " xyz", "DEL " + k, "STRLEN " + k, "MGET " + k + " none " + k, "EXISTS " + k,
		"LPUSH " + l.name + ":l a b", "LPOP " + l.name + ":l", "LRANGE " + l.name + ":l 0 -1", "HSET " + l.name + ":h f v", "HGETALL " + l.name + ":h", "LPUSH " + k + " wrong",
		"PFADD " + l.name + ":p a b", "PFCOUNT " + l.name + ":p", "PING", "PING with text", "ECHO text", "GET", "NOSUCH command", "SET " + k, "OBJECT HELP",
		"EVAL \"return {1,redis.call('incr',KEYS[1]),'x'}\" 1 " + l.name + ":n", "EVALSHA abc 0", "EVAL \"return redis.error_reply('MY own')\" 0",
		"GETRANGE big 0 70000", "GET big", "SETRANGE " + k + " 70000 x", "SORT " + l.name + ":l ALPHA", "COPY " + k + " " + k + "c DB 1", "TYPE " + k,
		"CLIENT GETNAME", "SELECT x", "AUTH x y z", "XADD " + l.name + ":s 1-1 f v", "XACK " + l.name + ":s g 1-1", "DBSIZE x", "TIME x"}
	l.say("%s", all[l.rng.IntN(len(all))])
}

func (l *life) transaction() {
	switch n := l.rng.IntN(8); {
	case n < 3:
		l.say("MULTI")
		l.multi = l.multi || !l.in2Subscribed() && !l.lim
	case n < 5:
		l.say("EXEC")
		l.multi = l.multi && l.in2Subscribed()
	case n < 6:
		l.say("DISCARD")
		l.multi = l.multi && l.in2Subscribed()
	case l.plain:
	case n < 7:
		l.say("WATCH %s", l.key())
		l.watched = true
	default:
		l.say("UNWATCH")
	}
}

func (l *life) subscription() {
	if l.multi { // how much EXEC answers then is told apart in tests of its own
		l.command()
		return
	}
	c := fmt.Sprintf("%s:c%d", l.name, l.rng.IntN(3))
	switch n := l.rng.IntN(10); {
	case n < 3:
		l.say("SUBSCRIBE %s %s", c, l.name+":c9")
		if !l.lim {
			l.subs["c"+c], l.subs["c"+l.name+":c9"] = true, true
		}
	case n < 4:
		l.say("PSUBSCRIBE %s", c+"*")
		l.subs["p"+c+"*"] = true
	case n < 5:
		l.say("SSUBSCRIBE %s", c)
		l.subs["s"+c] = true
	case n < 6:
		l.say("UNSUBSCRIBE %s", c)
		delete(l.subs, "c"+c)
	case n < 8:
		// Without arguments they would leave in the order of a hash table.
		for _, sub := range slices.Sorted(maps.Keys(l.subs)) {
			name := map[byte]string{'c': "UNSUBSCRIBE", 'p': "PUNSUBSCRIBE", 's': "SUNSUBSCRIBE"}[sub[0]]
			l.say("%s %s", name, sub[1:])
			delete(l.subs, sub)
			break
		}
	case n < 9 && len(l.subs) == 0:
		l.say("UNSUBSCRIBE")
	case l.plain:
		// Both sides of these switches are one server, which also counts the subscriber
		// that is being left or got ready.
		l.say("PUBLISH %s:nobody message", l.name)
	default:
		l.say("PUBLISH %s message", c)
	}
}

func (l *life) connection() {
	switch n := l.rng.IntN(12); {
	case n > 9 && !l.multi:
		name := []string{"lim", "default"}[n-10]
		if l.rng.IntN(3) == 0 {
			l.say("HELLO 3 AUTH %s x", name)
			if !l.in2Subscribed() {
				l.proto = 3
			}
		} else {
			l.say("AUTH %s x", name)
		}
		l.lim = l.in2Subscribed() && l.lim || !l.in2Subscribed() && name == "lim"
	case n < 3:
		l.say("SELECT %d", l.rng.IntN(3))
	case n < 4 && !l.plain: // the map of a switch does not have it
		l.say("SELECT 99")
	case n < 6 && !l.multi:
		proto := 2 + l.rng.IntN(2)
		l.say("HELLO %d", proto)
		if !l.in2Subscribed() {
			l.proto = proto
		}
	case n < 7:
		l.say("CLIENT SETNAME name%d", l.rng.IntN(3))
	case n < 8:
		l.say("RESET")
		l.proto, l.multi, l.silent, l.lim, l.watched = 2, false, false, false, false
		clear(l.subs)
	case n < 9:
		l.say("HELLO 3 SETNAME")
	default:
		l.say("CLIENT SETNAME \"a b\"")
	}
}

func (l *life) silence() {
	if l.multi || l.in2Subscribed() || l.skip { // Redis answers EXEC with too few elements then
		return
	}
	switch n := l.rng.IntN(4); {
	case n < 2:
		l.say("CLIENT REPLY SKIP")
		l.skip = true
	case n < 3:
		l.say("CLIENT REPLY OFF")
		l.silent = true
	default:
		l.say("CLIENT REPLY ON")
		l.silent = false
	}
}

func (l *life) block() {
	list := l.name + ":l"
	all := []string{"BLPOP " + list + " 0.01", "BLPOP none 0.01", "BLMOVE " + list + " " + list + " LEFT RIGHT 0.01", "XREAD BLOCK 5 STREAMS " + l.name + ":s $",
		"XREAD COUNT 1 BLOCK 5 STREAMS " + l.name + ":s 0", "WAIT 0 1", "BLPOP " + list + " x"}
	one := all[l.rng.IntN(len(all))]
	if one == "WAIT 0 1" && l.multi && l.watched { // refused behind shared connections, see noClaimWatched
		one = "PING"
	}
	l.say("%s", one)
}

func (l *life) track() {
	if l.multi || l.proto == 2 || l.skip || l.silent {
		return
	}
	all := []string{"CLIENT TRACKING ON", "CLIENT TRACKING OFF", "CLIENT TRACKING ON OPTIN", "CLIENT CACHING YES", "GET " + l.key(), "SET " + l.key() + " 1"}
	l.say("%s", all[l.rng.IntN(len(all))])
}

// wire are the commands in the pieces in which they are sent, each with how long the
// client rests after it.
func (l *life) wire() (pieces [][]byte, rests []time.Duration) {
	var b []byte
	for _, line := range l.lines {
		args, _ := resp.SplitArgs([]byte(line))
		switch l.rng.IntN(30) { // a command that is empty is not always nothing
		case 0:
			b = append(b, "*0\r\n"...)
		case 1:
			b = append(b, "\r\n"...)
		}
		if l.rng.IntN(8) == 0 {
			b = append(append(b, line...), "\r\n"...)
		} else {
			b = append(b, wireOf(args...)...)
		}
	}
	b = append(b, words("RESET")...)
	b = append(b, echoMarker()...)
	for len(b) > 0 {
		n := min(len(b), 1+l.rng.IntN([]int{20, 200, 4000}[l.rng.IntN(3)]))
		pieces = append(pieces, b[:n])
		b = b[n:]
		rest := time.Duration(0)
		switch l.rng.IntN(12) {
		case 0:
			rest = quietFor + 30*time.Millisecond
		case 1, 2, 3:
			rest = time.Duration(l.rng.IntN(3)) * time.Millisecond
		}
		rests = append(rests, rest)
	}
	return pieces, rests
}

// newLife makes up a client's life.
func newLife(seed uint64, name string, steps int, plain bool) *life {
	l := &life{rng: rand.New(rand.NewPCG(seed, 3)), name: name, proto: 2, subs: make(map[string]bool), plain: plain}
	for range steps {
		l.step()
	}
	return l
}

// live leads a life and returns all that was answered.
func live(addr string, pieces [][]byte, rests []time.Duration) string {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = conn.Close() }()
	go func() {
		for i, piece := range pieces {
			if _, err := conn.Write(piece); err != nil {
				return
			}
			if rests[i] > 0 {
				<-time.After(rests[i])
			}
		}
	}()
	var out bytes.Buffer
	buf := make([]byte, 64<<10)
	for !bytes.HasSuffix(out.Bytes(), []byte(marker+"\r\n")) {
		_ = conn.SetReadDeadline(time.Now().Add(2 * patience))
		n, err := conn.Read(buf)
		out.Write(buf[:n])
		if err != nil {
			fmt.Fprintf(&out, "<%v>", err)
			break
		}
	}
	return out.String()
}

// TestRandomSessions has many clients lead lives that nobody has thought of, in
// pieces and with rests, so that they share connections and leave them in every
// state; with switches that are given up meanwhile, and with switches to the same
// server by another connection. Each must see, to the byte, what it sees of a server;
// where connections to the server are cut, up to the end of its own.
func TestRandomSessions(t *testing.T) {
	ways := map[string]func(w *world, link *redistest.Link, round int){
		"quiet":    nil,
		"given up": func(w *world, _ *redistest.Link, _ int) { w.giveUp(router.Target) },
		"switching": func(w *world, _ *redistest.Link, round int) {
			w.switchTo([]router.Side{router.Target, router.Source}[round%2])
		},
		"cut": func(_ *world, link *redistest.Link, round int) {
			switch round % 3 {
			case 0:
				link.Cut()
			case 1:
				link.CutAfter(1000)
			case 2:
				link.CutAfterUp(1000)
			}
		},
	}
	seed := cmp.Or(*randomSeed, rand.Uint64N(1<<32))
	const clients, steps = 24, 60
	eachMode(t, func(t *testing.T, mode setting) {
		for _, way := range []string{"quiet", "given up", "switching", "cut"} {
			t.Run(way, func(t *testing.T) {
				acl := redistest.WithACL("lim on nopass ~* &* +@all -multi -blpop -mget -select -subscribe")
				direct, source := redistest.Start(t, withDebug, acl), redistest.Start(t, withDebug, acl)
				link := redistest.NewLink(t, source.Addr())
				w := newWorldOn(t, source, source, mode, func(c *Config) {
					if way == "cut" {
						c.Upstreams[0].Dial = newDialer(link.Addr())
					}
					c.Upstreams[1] = c.Upstreams[0]
				})
				w.dbs = router.Identity(16)
				w.gate.Open(router.Route{Map: w.dbs})
				moves := 0
				for round := range *randomRounds {
					for _, s := range []*redistest.Server{direct, source} {
						c := s.Client(0)
						c.FlushAll(context.Background())
						c.Set(context.Background(), "big", strings.Repeat("b", 300_000), 0)
						_ = c.Close()
					}
					var wg sync.WaitGroup
					stop := make(chan struct{})
					done := make(chan struct{})
					go func() {
						defer close(done)
						f := ways[way]
						if f == nil {
							return
						}
						for ; ; moves++ {
							select {
							case <-stop:
								return
							case <-time.After(20 * time.Millisecond):
								f(w, link, moves)
							}
						}
					}()
					for i := range clients {
						wg.Go(func() {
							from := seed + uint64(round*clients+i)
							l := newLife(from, fmt.Sprintf("c%d", i), steps, way == "switching")
							pieces, rests := l.wire()
							want := mask(live(direct.Addr(), pieces, make([]time.Duration, len(rests))))
							got := mask(live(w.proxy.Addr().String(), pieces, rests))
							if at := strings.LastIndex(got, "<"); way == "cut" && at >= 0 && ended.MatchString(got[at:]) {
								got = got[:at]
								want = want[:min(len(want), len(got))]
							}
							if got == want {
								return
							}
							at := 0
							for at < len(got) && at < len(want) && got[at] == want[at] {
								at++
							}
							t.Errorf("-from %d, %s: differs at byte %d:\n got …%.300q\nwant …%.300q", from, way, at, got[max(0, at-100):], want[max(0, at-100):])
							if dump := os.Getenv("LIVES"); dump != "" {
								_ = os.WriteFile(fmt.Sprintf("%s/%d", dump, from), []byte(strings.Join(l.lines, "\n")), 0o600)
							}
						})
					}
					wg.Wait()
					close(stop)
					<-done
					if t.Failed() {
						return
					}
				}
			})
		}
	})
}
