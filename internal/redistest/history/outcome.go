package history

import (
	"errors"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"
)

// outcome is what a client knows of an operation. The zero value is what it
// knows before there is any answer.
type outcome uint8

const (
	unknown outcome = iota
	acked
	refused
)

// refusals are the error codes after which an operation has certainly not
// taken effect.
var refusals = []string{
	"NOPERM", "NOAUTH", "WRONGPASS", "READONLY", "NOREPLICAS", "EXECABORT", "TRYAGAIN", "OOM", "MISCONF",
	"LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "MOVED", "ASK", "UNBLOCKED", "ERR max number of clients",
	// The first command of our script was refused (Redis 7.0, and later ones).
	"ERR The user executing the script can't run this command", "ERR ACL failure in script:",
}

// classify says what err, the error of a client for one command, tells about
// the command. Anything that is not surely a refusal is unknown.
func (c *Config) classify(err error) outcome {
	if err == nil || errors.Is(err, redis.Nil) {
		return acked
	}
	if isReply(err) {
		if c.refuses(err.Error()) {
			return refused
		}
		return unknown
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return refused // never left the client
	}
	return unknown
}

func (c *Config) refuses(text string) bool {
	for _, list := range [][]string{refusals, c.Refusals} {
		for _, prefix := range list {
			rest, ok := strings.CutPrefix(text, prefix)
			if ok && (rest == "" || rest[0] == ' ') {
				return true
			}
		}
	}
	return false
}

// isReply reports whether err is a reply of the server: the connection is
// then in order, and the next reply is that of the next command.
func isReply(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply)
}
