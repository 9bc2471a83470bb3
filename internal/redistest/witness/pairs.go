package witness

import (
	"errors"
	"fmt"
	"strconv"
)

// partner is a second connection of the same life.
func (l *life) partner() (*life, error) {
	p := l.crowd.begin(l.addr, l.rng)
	if p == nil {
		return nil, &lostError{errors.New("the partner could not connect")}
	}
	p.name, p.kind = l.name, l.kind+", partner"
	return p, nil
}

// converse sends what the partner has gathered and reads all that it is answered. An
// error says that it is the partner's.
func (l *life) converse() error {
	err := l.flush()
	if err == nil {
		err = l.receive(0)
	}
	if err != nil {
		return fmt.Errorf("the partner, with %d commands outstanding: %w", len(l.pending), err)
	}
	return nil
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
		if err := p.converse(); err != nil {
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
		if err := p.converse(); err != nil {
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
