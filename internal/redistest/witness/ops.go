package witness

import (
	"context"
	"errors"
	"fmt"
	"net"
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
	p := string(l.pattern(n, 1+l.rng.IntN(l.crowd.cfg.Big)))
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

// leave reads back what was written, removes it and goes.
func (l *life) leave() error {
	if err := l.receive(0); err != nil {
		return err
	}
	for db, at := range l.crowd.dbAt {
		l.add(ok, "SELECT", strconv.Itoa(db))
		l.db = at
		l.add(l.value(), "GET", l.key("value"))
		l.add(fmt.Sprintf(":%d\r\n", l.sent[at].list), "LLEN", l.key("list"))
		counter := l.null("$-1\r\n")
		if n := l.sent[at].counter; n > 0 {
			counter = bulk(strconv.Itoa(n))
		}
		l.add(counter, "GET", l.key("counter"))
		if err := l.flush(); err != nil {
			return err
		}
		if err := l.receive(0); err != nil {
			return err
		}
		o := l.add("", "UNLINK", l.key("counter"), l.key("list"), l.key("value"), l.key("big"), l.key("queue"), l.key("hash"), l.key("pair"))
		o.check = func(string) error { return nil }
		l.does(o, effect{at, clears, 0})
		if err := l.flush(); err != nil {
			return err
		}
		if err := l.receive(0); err != nil {
			return err
		}
	}
	if len(l.messages) > 0 {
		return fmt.Errorf("%d messages were never received", len(l.messages))
	}
	return nil
}

// hangUp ends the life in the middle of the batch that was gathered: some of it
// is sent, the last command perhaps in part, some replies are read.
func (l *life) hangUp() error {
	l.kind += ", hangs up"
	l.left = true
	answered := len(l.pending)
	if l.rng.IntN(2) == 0 {
		l.tear()
	} else if l.rng.IntN(2) == 0 {
		l.add("", "BLPOP", l.key("nothing"), "0")
		l.add("", "ECHO", "never")
	}
	err := l.flush()
	if err == nil && answered > 0 {
		err = l.receive(len(l.pending) - l.rng.IntN(answered+1))
	}
	if tcp, is := l.conn.(*net.TCPConn); is && l.rng.IntN(2) == 0 {
		_ = tcp.SetLinger(0)
	}
	var lost *lostError
	if errors.As(err, &lost) {
		return nil
	}
	return err
}

// tear adds a part of a command, which must never run.
func (l *life) tear() {
	size := 10
	if l.rng.IntN(2) == 0 {
		size = l.crowd.cfg.Big
	}
	whole := appendCommand(nil, "SET", l.key("big"), string(l.pattern(l.next(), size)))
	l.out = append(l.out, whole[:1+l.rng.IntN(len(whole)-1)]...)
}

// partner is a second connection of the same life.
func (l *life) partner() (*life, error) {
	p := l.crowd.begin(l.addr, l.rng)
	if p == nil {
		return nil, &lostError{errors.New("the partner could not connect")}
	}
	p.name, p.kind = l.name, l.kind+", partner"
	return p, nil
}

// queueOfTwo has one connection wait for what the other pushes.
func (l *life) queueOfTwo() error {
	l.kind = "blocked"
	p, err := l.partner()
	if err != nil {
		return err
	}
	defer func() { _ = p.conn.Close() }()
	for db, at := range l.crowd.dbAt {
		if at == l.db {
			p.add(ok, "SELECT", strconv.Itoa(db))
		}
	}
	for range 1 + l.rng.IntN(20) {
		t, e := l.token(), l.token()
		l.add("*2\r\n"+bulk(l.key("pair"))+bulk(t), "BLPOP", l.key("pair"), "0")
		l.add(bulk(e), "ECHO", e)
		if err := l.flush(); err != nil {
			return err
		}
		p.add("", "RPUSH", l.key("pair"), t).check = func(string) error { return nil }
		if err := p.flush(); err != nil {
			return err
		}
		if err := p.receive(0); err != nil {
			return err
		}
		if err := l.receive(0); err != nil {
			return err
		}
	}
	return l.leave()
}

// channelOfTwo has one connection hear what the other publishes.
func (l *life) channelOfTwo() error {
	l.kind = "subscribed"
	p, err := l.partner()
	if err != nil {
		return err
	}
	defer func() { _ = p.conn.Close() }()
	ch := l.key("channel")
	head := "*3\r\n"
	if l.proto == 3 {
		head = ">3\r\n"
	}
	deaf := false
	for range 1 + l.rng.IntN(5) {
		l.add(head+bulk("subscribe")+bulk(ch)+":1\r\n", "SUBSCRIBE", ch)
		if err := l.flush(); err != nil {
			return err
		}
		if err := l.receive(0); err != nil {
			return err
		}
		for range 1 + l.rng.IntN(50) {
			t, e := l.token(), l.token()
			l.messages = append(l.messages, t)
			p.add("", "PUBLISH", ch, t).check = func(reply string) error {
				if reply == ":0\r\n" { // then the subscriber must have been lost
					deaf = true
				} else if reply != ":1\r\n" || deaf {
					return fmt.Errorf("%s have heard it", short(reply))
				}
				return nil
			}
			p.add(bulk(e), "ECHO", e)
		}
		if err := p.flush(); err != nil {
			return err
		}
		if err := p.receive(0); err != nil {
			return err
		}
		for len(l.messages) > 0 {
			reply, err := l.element()
			if err != nil {
				return err
			}
			if err := l.take(reply); err != nil {
				return err
			}
		}
		if deaf {
			return errors.New("all messages came, but PUBLISH said that nobody had heard one of them")
		}
		l.add(head+bulk("unsubscribe")+bulk(ch)+":0\r\n", "UNSUBSCRIBE", ch)
		l.incr(fmt.Sprintf(":%d\r\n", l.sent[l.db].counter+1))
		if err := l.flush(); err != nil {
			return err
		}
		if err := l.receive(0); err != nil {
			return err
		}
	}
	return l.leave()
}
