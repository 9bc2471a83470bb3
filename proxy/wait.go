package proxy

import (
	"fmt"

	"github.com/crossfade/crossfade/internal/resp"
)

// waitName is the channel and the key that claimWrites uses. Nobody hears the
// channel, because there are no patterns of shard channels; the key is never there.
const waitName = "crossfade:wait"

// noClaim is the answer where WAIT could only be answered with a guess.
const noClaim = "ERR WAIT behind shared connections needs the right to publish to the shard channel " + waitName +
	" or to SET and DEL the key " + waitName + "; upstream: pinned needs neither"

// claimWrites has a WAIT wait for what the client has written on shared
// connections too. Servers since Redis 7.2 have a connection wait for the last of
// its own commands that was replicated, and answer at once where there was none. So
// the connection replicates something now: a message that nobody hears, or, for who
// may not send that, a key that is set and deleted in one step.
//
// text is the error for a client that may do neither. It says so instead of a number
// of replicas that may not have its writes.
func (s *session) claimWrites() (text string, err error) {
	if s.home == nil || !s.srv.cfg.Shared {
		return "", nil
	}
	replies, err := s.ask(words("SPUBLISH", waitName, ""))
	if err != nil || !resp.IsError(replies[0]) {
		return "", err
	}
	// It keeps its connection from now on, so that its next writes are this one's.
	s.keep()
	// HELLO is everybody's. An error of WAIT itself is for the server to say.
	replies, err = s.ask(words("HELLO"), words("WAIT", "0", "0"))
	if err != nil || waitsForAll(replies[0]) || resp.IsError(replies[1]) {
		return "", err
	}
	replies, err = s.ask(words("MULTI"), words("SET", waitName, ""), words("DEL", waitName), words("EXEC"))
	if err != nil || done(replies[3]) {
		return "", err
	}
	return noClaim, nil
}

// done reports whether EXEC has run all its commands.
func done(reply []byte) bool {
	elements := resp.Elements(reply)
	for _, e := range elements {
		if resp.IsError(e) {
			return false
		}
	}
	return len(elements) == 2
}

// waitsForAll reports whether the server of this answer to HELLO is older than 7.2:
// there a connection's WAIT waits for what was replicated before its last command,
// whoever wrote it. Servers without HELLO are older still.
func waitsForAll(hello []byte) bool {
	if resp.IsError(hello) {
		return true
	}
	_, major, minor := program(hello)
	return major > 0 && (major < 7 || major == 7 && minor < 2)
}

// program says which program answers HELLO so; a version of 0 is one that it does not tell.
func program(hello []byte) (name string, major, minor int) {
	about := resp.Elements(hello)
	for i := 0; i+1 < len(about); i += 2 {
		field, _, _ := resp.Text(about[i])
		text, _, _ := resp.Text(about[i+1])
		switch string(field) {
		case "server":
			name = string(text)
		case "version":
			if _, err := fmt.Sscanf(string(text), "%d.%d", &major, &minor); err != nil {
				major, minor = 0, 0
			}
		}
	}
	return name, major, minor
}
