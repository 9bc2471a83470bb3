package witness

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

const ok = "+OK\r\n"

// run does batches of random commands until the life ends, by itself or not.
func (l *life) run(ctx context.Context) error {
	l.kind = "mixed"
	if err := l.introduce(); err != nil {
		return err
	}
	switch l.rng.IntN(8) {
	case 0:
		return l.queueOfTwo()
	case 1:
		return l.channelOfTwo()
	}
	for range 1 + l.rng.IntN(60) {
		if ctx.Err() != nil {
			break
		}
		l.batch()
		if l.rng.IntN(40) == 0 {
			return l.hangUp()
		}
		if err := l.flush(); err != nil {
			return err
		}
		left := 0
		if l.rng.IntN(3) == 0 { // read a part, then send on
			left = l.rng.IntN(len(l.pending) + 1)
		}
		if err := l.receive(left); err != nil {
			return err
		}
		if l.rng.IntN(25) == 0 { // long enough to share a connection again
			rest(ctx, 120*time.Millisecond)
		}
	}
	return l.leave()
}

// introduce says who the client is.
func (l *life) introduce() error {
	if u := l.crowd.cfg.Users[l.rng.IntN(len(l.crowd.cfg.Users))]; u.Password != "" {
		l.login(u)
	}
	if l.rng.IntN(2) == 0 {
		l.hello(3)
	}
	if l.rng.IntN(2) == 0 {
		l.selects()
	}
	if err := l.flush(); err != nil {
		return err
	}
	return l.receive(0)
}

// batch gathers commands.
func (l *life) batch() {
	switch n := l.rng.IntN(20); {
	case n < 9:
		l.any()
	case n < 17:
		for range 2 + l.rng.IntN(40) {
			l.any()
		}
	case n < 18:
		for range 1100 + l.rng.IntN(1500) {
			l.simple()
		}
	default:
		for range 1 + l.rng.IntN(3) {
			l.simple()
			l.big()
		}
	}
}

func (l *life) any() {
	if l.rng.IntN(6) == 0 {
		l.stateful()
		return
	}
	l.simple()
}

func (l *life) token() string {
	l.tokens++
	return l.name + "~" + strconv.Itoa(l.tokens)
}

func (l *life) null(resp2 string) string {
	if l.proto == 3 {
		return "_\r\n"
	}
	return resp2
}

func (l *life) value() string {
	if n := l.sent[l.db].value; n > 0 {
		return bulk(l.text(n))
	}
	return l.null("$-1\r\n")
}

// simple adds a command that any connection will do for.
func (l *life) simple() {
	here := &l.sent[l.db]
	switch l.rng.IntN(14) {
	case 0, 1:
		l.incr(fmt.Sprintf(":%d\r\n", here.counter+1))
	case 2, 3:
		l.does(l.add(fmt.Sprintf(":%d\r\n", here.list+1), "RPUSH", l.key("list"), strconv.Itoa(here.list+1)), effect{l.db, pushes, 0})
	case 4:
		n := l.next()
		l.does(l.add(ok, "SET", l.key("value"), l.text(n)), effect{l.db, sets, n})
	case 5, 6:
		l.add(l.value(), "GET", l.key("value"))
	case 7:
		l.add(l.null("$-1\r\n"), "GET", l.key("none"))
	case 8, 9:
		t := l.token()
		l.add(bulk(t), "ECHO", t)
	case 10:
		v := l.value()
		l.add("*3\r\n"+v+l.null("$-1\r\n")+v, "MGET", l.key("value"), l.key("none"), l.key("value"))
	case 11:
		l.wrong()
	case 12:
		l.hash()
	case 13:
		want, n := "", min(here.list, 3)
		for i := here.list - n + 1; i <= here.list; i++ {
			want += bulk(strconv.Itoa(i))
		}
		l.add(fmt.Sprintf("*%d\r\n%s", n, want), "LRANGE", l.key("list"), "-3", "-1")
	}
}

func (l *life) incr(want string) {
	l.does(l.add(want, "INCR", l.key("counter")), effect{l.db, increments, 0})
}

// next numbers what is written.
func (l *life) next() int {
	l.tokens++
	return l.tokens
}

// wrong adds a command that the server refuses.
func (l *life) wrong() {
	switch l.rng.IntN(4) {
	case 0:
		l.add("-ERR value is not an integer or out of range\r\n", "INCRBY", l.key("counter"), "x")
	case 1:
		l.add("-ERR wrong number of arguments for 'get' command\r\n", "GET")
	case 2:
		l.add("-ERR syntax error\r\n", "SET", l.key("value"), "v", "nonsense")
	case 3:
		denied := ""
		for _, u := range l.crowd.cfg.Users {
			if u.Denied != "" {
				denied = u.Denied
			}
		}
		if denied == "" {
			return
		}
		mine := l.user.Denied == denied
		l.add("", "GET", denied).check = func(reply string) error {
			if got := strings.HasPrefix(reply, "-NOPERM"); got != mine || !got && reply != "$-1\r\n" && reply != "_\r\n" {
				return fmt.Errorf("user %q got %s", l.user.Name, short(reply))
			}
			return nil
		}
	}
}

func (l *life) hash() {
	v := l.token()
	n := "0"
	if !l.hashed[l.db] {
		l.hashed[l.db] = true
		n = "1"
	}
	l.add(":"+n+"\r\n", "HSET", l.key("hash"), "field", v)
	head := "*2\r\n"
	if l.proto == 3 {
		head = "%1\r\n"
	}
	l.add(head+bulk("field")+bulk(v), "HGETALL", l.key("hash"))
}

// big writes and reads a large value.
func (l *life) big() {
	n := l.next()
	const least = 64 // a value that is cut shorter does not say whose it is
	p := string(l.pattern(n, least+l.rng.IntN(l.crowd.cfg.Big)))
	l.does(l.add(ok, "SET", l.key("big"), p), effect{l.db, setsBig, n})
	for range l.rng.IntN(3) {
		l.add(bulk(p), "GET", l.key("big"))
	}
}

// stateful adds commands for which a connection of one's own is needed.
func (l *life) stateful() {
	switch l.rng.IntN(12) {
	case 0, 1:
		l.transaction()
	case 2:
		l.add(l.null("*-1\r\n"), "BLPOP", l.key("queue"), "0.01")
	case 3:
		t := l.token()
		l.add(":1\r\n", "RPUSH", l.key("queue"), t)
		l.add("*2\r\n"+bulk(l.key("queue"))+bulk(t), "BLPOP", l.key("queue"), "0")
	case 4:
		l.selects()
	case 5:
		l.hello(2 + l.rng.IntN(2))
	case 6:
		l.login(l.crowd.cfg.Users[l.rng.IntN(len(l.crowd.cfg.Users))])
	case 7:
		l.add(bulk(l.name0()), "ACL", "WHOAMI")
	case 8:
		t := l.token()
		l.add(bulk(t), "EVAL", "return ARGV[1]", "0", t)
	case 9:
		l.add("", "CLIENT", "REPLY", "SKIP").mute = true
		n := l.next()
		o := l.add("", "SET", l.key("value"), l.text(n))
		o.mute = true
		l.does(o, effect{l.db, sets, n})
		l.add("+PONG\r\n", "PING")
	case 10:
		l.ownChannel()
	case 11:
		l.add("+RESET\r\n", "RESET")
		l.proto, l.db, l.user = 2, l.crowd.dbAt[0], User{}
	}
}

func (l *life) name0() string {
	if l.user.Name == "" {
		return "default"
	}
	return l.user.Name
}

func (l *life) login(u User) {
	if u.Password == "" {
		return
	}
	l.user = u
	if u.Name == "" {
		l.add(ok, "AUTH", u.Password)
	} else {
		l.add(ok, "AUTH", u.Name, u.Password)
	}
}

func (l *life) hello(proto int) {
	l.proto = proto
	head := "*14\r\n$6\r\nserver\r\n"
	if proto == 3 {
		head = "%7\r\n$6\r\nserver\r\n"
	}
	l.add("", "HELLO", strconv.Itoa(proto)).check = func(reply string) error {
		if !strings.HasPrefix(reply, head) {
			return fmt.Errorf("got %s", short(reply))
		}
		return nil
	}
}

func (l *life) selects() {
	dbs := l.crowd.cfg.Databases
	db := dbs[l.rng.IntN(len(dbs))]
	l.add(ok, "SELECT", strconv.Itoa(db))
	l.db = l.crowd.dbAt[db]
}

// transaction adds a transaction, sometimes with a WATCH that succeeds or fails.
func (l *life) transaction() {
	watch := l.rng.IntN(4)
	if watch == 1 && l.crowd.cfg.Switches {
		watch = 0 // it would not be known whether it has run until it is answered
	}
	if watch <= 2 && watch > 0 {
		l.add(ok, "WATCH", l.key("value"))
	}
	if watch == 2 {
		n := l.next()
		l.does(l.add(ok, "SET", l.key("value"), l.text(n)), effect{l.db, sets, n})
	}
	here := &l.sent[l.db]
	t := l.token()
	l.add(ok, "MULTI")
	l.add("+QUEUED\r\n", "INCR", l.key("counter"))
	l.add("+QUEUED\r\n", "ECHO", t)
	l.add("+QUEUED\r\n", "RPUSH", l.key("list"), strconv.Itoa(here.list+1))
	switch {
	case watch == 2:
		l.add(l.null("*-1\r\n"), "EXEC")
	case watch == 3 && l.rng.IntN(2) == 0:
		l.add(ok, "DISCARD")
	default:
		want := fmt.Sprintf("*3\r\n:%d\r\n%s:%d\r\n", here.counter+1, bulk(t), here.list+1)
		l.does(l.add(want, "EXEC"), effect{l.db, increments, 0}, effect{l.db, pushes, 0})
	}
}

// ownChannel hears itself, which takes RESP3.
func (l *life) ownChannel() {
	if l.proto != 3 {
		return
	}
	ch, t := l.key("channel"), l.token()
	l.add(">3\r\n"+bulk("subscribe")+bulk(ch)+":1\r\n", "SUBSCRIBE", ch)
	l.messages = append(l.messages, t)
	l.add(":1\r\n", "PUBLISH", ch, t)
	l.incr(fmt.Sprintf(":%d\r\n", l.sent[l.db].counter+1))
	l.add(">3\r\n"+bulk("unsubscribe")+bulk(ch)+":0\r\n", "UNSUBSCRIBE", ch)
}
