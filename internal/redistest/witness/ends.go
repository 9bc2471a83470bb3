package witness

import (
	"errors"
	"fmt"
	"net"
	"strconv"
)

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
