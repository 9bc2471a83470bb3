package e2e

import (
	"fmt"
	"strconv"
	"strings"
)

// stateful have told the server who they are, and more of themselves. All of it must
// stand at the other server, which is asked, and the silent ones stay silent.
func stateful(a *act) {
	all := a.clients(rowSessions())
	told := make([]string, len(all)) // what CLIENT LIST says of it, besides the name
	a.each(all, func(i int, p *peer) {
		switch i % 3 {
		case 0:
			p.want(ok, "AUTH", "app", "apppass")
			told[i] = "user=app"
		case 1:
			if a.proto == 3 && !strings.HasPrefix(p.do("HELLO", "3", "AUTH", "app", "apppass", "SETNAME", "soon-another"), "%") {
				p.failf("HELLO 3 AUTH")
			}
		}
		db := []int{0, 3, 7}[i/3%3]
		p.want(ok, "SELECT", strconv.Itoa(db))
		p.want(ok, "CLIENT", "SETNAME", fmt.Sprintf("state-%d", i))
		p.askID() // so that it has a connection of its own, where its name stands
		told[i] += " db=" + strconv.Itoa(db)
		if i%2 == 0 && p.able("CLIENT", "NO-EVICT", "ON") {
			told[i] += " e"
		}
		if i%4 < 2 && p.able("CLIENT", "NO-TOUCH", "ON") {
			told[i] += " T"
		}
		if p.able("CLIENT", "SETINFO", "LIB-NAME", fmt.Sprintf("lib-%d", i)) {
			p.want(ok, "CLIENT", "SETINFO", "LIB-VER", "1.2.3")
			told[i] += fmt.Sprintf(" lib-name=lib-%d lib-ver=1.2.3", i)
		}
	})
	for s := range 2 {
		for i, p := range all {
			key := fmt.Sprintf("state:%d", i)
			switch i % 4 {
			case 0: // it is not told anything until it asks for it
				p.send("CLIENT", "REPLY", "OFF")
				p.send("INCR", key)
				p.send("NOSUCHCOMMAND")
			case 1: // nor this one of the next command, which comes after the switch
				p.send("CLIENT", "REPLY", "SKIP")
			}
		}
		a.next(all)
		a.each(all, func(i int, p *peer) {
			key := fmt.Sprintf("state:%d", i)
			was := 2*s + 1
			p.send("INCR", key)
			switch i % 4 {
			case 0:
				p.send("INCR", key)
				p.send("DECR", key)
				p.want(ok, "CLIENT", "REPLY", "ON")
				was++
			case 1:
			default:
				p.expect("INCR", fmt.Sprintf(":%d\r\n", was))
			}
			p.want(fmt.Sprintf(":%d\r\n", was+1), "INCR", key)
			if i%4 == 0 {
				p.want(fmt.Sprintf(":%d\r\n", was), "DECR", key)
			}
			p.want(bulk(fmt.Sprintf("state-%d", i)), "CLIENT", "GETNAME")
			user := "default"
			if i%3 == 0 || i%3 == 1 && a.proto == 3 {
				user = "app"
			}
			p.want(bulk(user), "ACL", "WHOAMI")
			p.want(a.null(), "GET", "state:none") // in its protocol
		})
		a.looksAlike(a.direct(), told, s == 0)
	}
}

// able says a command that older servers do not have, and reports whether this one does.
func (p *peer) able(words ...string) bool {
	got := p.do(words...)
	if got != ok && !strings.HasPrefix(got, "-ERR unknown subcommand") && !strings.HasPrefix(got, "-ERR Unknown subcommand") {
		p.failf("%q: %q", words, got)
	}
	return got == ok
}

// looksAlike compares what the server itself says of each client with what it was told.
func (a *act) looksAlike(look *peer, told []string, mapped bool) {
	known := make(map[string]map[string]string)
	for line := range strings.Lines(look.text(look.do("CLIENT", "LIST"))) {
		fields := make(map[string]string)
		for field := range strings.FieldsSeq(line) {
			name, value, _ := strings.Cut(field, "=")
			fields[name] = value
		}
		known[fields["name"]] = fields
	}
	numbers := mapping(dbmap)
	for i, says := range told {
		fields, there := known[fmt.Sprintf("state-%d", i)]
		if !there {
			a.failf("client %d: the server knows nobody of its name", i)
		}
		for want := range strings.FieldsSeq(says) {
			name, value, valued := strings.Cut(want, "=")
			if n, err := strconv.Atoi(value); err == nil && name == "db" && mapped {
				value = strconv.Itoa(numbers(n))
			}
			switch {
			case valued && fields[name] != value:
				a.failf("client %d: the server says %s=%s, want %s", i, name, fields[name], value)
			case !valued && !strings.Contains(fields["flags"], want):
				a.failf("client %d: its flags at the server are %s, without %s", i, fields["flags"], want)
			}
		}
		if speaks := fields["resp"]; speaks != "" && speaks != strconv.Itoa(a.proto) {
			a.failf("client %d: the server speaks RESP%s to it", i, speaks)
		}
	}
}

// streams are connections that have become a stream of what the server does. There is
// no way on for them: they are closed at the switch, and not before.
func streams(a *act) {
	for range 2 {
		all := a.clients(rowSessions())
		a.each(all, func(i int, p *peer) {
			switch i % 20 {
			case 0:
				p.send("SYNC")
			case 1:
				p.send("PSYNC", "?", "-1")
			default:
				p.want(ok, "MONITOR")
			}
		})
		app := a.client()
		app.want("+PONG\r\n", "PING")
		app.want(ok, "SET", "stream:seen", "by all")
		a.each(all, func(i int, p *peer) {
			if i%20 < 2 {
				if _, err := p.in.Peek(1); err != nil { // the replication has begun
					p.failf("replicating: %v", err)
				}
				return
			}
			for seen := false; !seen; {
				seen = strings.Contains(p.next(), `"stream:seen"`)
			}
		})
		a.next(all)
		a.each(all, func(_ int, p *peer) { p.ended() })
		app.want(bulk("by all"), "GET", "stream:seen")
	}
}
