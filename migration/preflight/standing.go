package preflight

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/sync/conn"
)

// Standing is what a server says of its process, and of whom it replicates.
type Standing struct {
	Run    string // run id of the process; "" where it is not told
	Role   string // "master" or "slave"
	Replid string // of the history of writes that it has
	Before string // of the history that it had as a replica, before it became a master
	Linked bool   // a replica: it hears its master
	// Replicas are the addresses at which it says that its own replicas are.
	Replicas []string
}

// AskStanding returns what a server says of itself.
func AskStanding(ctx context.Context, p *conn.Pool) (Standing, error) {
	pipe := p.DB(0).Pipeline()
	answer := QueueStanding(ctx, pipe)
	_, unsent := pipe.Exec(ctx) // each has its own error, unless no connection was made
	s, err := answer()
	if err == nil {
		err = unsent
	}
	if err != nil {
		return Standing{}, fmt.Errorf("asking %s whom it replicates: %w", p, err)
	}
	return s, nil
}

// QueueStanding puts the questions into p, and returns what reads the answers.
func QueueStanding(ctx context.Context, p redis.Pipeliner) func() (Standing, error) {
	server, replication := p.Info(ctx, "server"), p.Info(ctx, "replication")
	return func() (Standing, error) {
		for _, c := range []*redis.StringCmd{server, replication} {
			if err := c.Err(); err != nil {
				return Standing{}, err
			}
		}
		return readStanding(server.Val(), replication.Val()), nil
	}
}

func readStanding(texts ...string) Standing {
	var s Standing
	for _, text := range texts {
		for line := range strings.Lines(text) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			switch name {
			case "run_id":
				s.Run = value
			case "role":
				s.Role = value
			case "master_replid":
				s.Replid = value
			case "master_replid2":
				s.Before = value
			case "master_link_status":
				s.Linked = value == "up"
			}
			if n := strings.TrimPrefix(name, "slave"); n == name || n == "" || strings.Trim(n, "0123456789") != "" {
				continue
			}
			f := make(map[string]string)
			for field := range strings.SplitSeq(value, ",") {
				if k, v, ok := strings.Cut(field, "="); ok {
					f[k] = v
				}
			}
			if f["ip"] != "" && f["port"] != "" && f["port"] != "0" { // a tool that follows need not listen
				s.Replicas = append(s.Replicas, net.JoinHostPort(f["ip"], f["port"]))
			}
		}
	}
	return s
}

// ErrStranger means that a server is not what it was taken for: a replica of a certain
// master, or of one of that master's replicas.
var ErrStranger = errors.New("it is no replica of this master")

// Follows returns ErrStranger unless s is a replica of master's, or of one of its replicas:
// no other server has the same history. An address proves nothing: behind a translation of
// addresses, or later, somebody else may answer there.
func (s Standing) Follows(master Standing) error {
	switch {
	case s.Run != "" && s.Run == master.Run:
		return fmt.Errorf("%w: it is the master itself", ErrStranger)
	case s.Role != "slave":
		return fmt.Errorf("%w: its role is %q", ErrStranger, s.Role)
	case s.Replid == "" || strings.Trim(s.Replid, "0") == "" || s.Replid != master.Replid:
		return fmt.Errorf("%w: it has another one's data (master_replid)", ErrStranger)
	}
	return nil
}

// Hears is Follows for one that also hears its master now.
func (s Standing) Hears(master Standing) error {
	if err := s.Follows(master); err != nil {
		return err
	}
	if !s.Linked {
		return errors.New("its connection to its master is down")
	}
	return nil
}

// Promoted reports whether s followed a master and is one itself now.
func (s Standing) Promoted(master Standing) bool {
	return s.Role == "master" && s.Before != "" && s.Before == master.Replid
}
