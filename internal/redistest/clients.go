package redistest

import (
	"context"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Options returns client options for the server at addr that suit tests: no
// silent retries, contexts heeded, nothing sent that was not asked for.
func Options(addr string, db int) *redis.Options {
	return &redis.Options{
		Addr:                  addr,
		DB:                    db,
		MaxRetries:            -1,
		DialerRetries:         1,
		ContextTimeoutEnabled: true,
		DisableIdentity:       true,
		PipelinePoolSize:      -1, // pipelines use the same connections
		MaintNotificationsConfig: &maintnotifications.Config{
			Mode: maintnotifications.ModeDisabled,
		},
	}
}

// Client returns a new client of database db as the default user. The server
// closes it in Close; closing it earlier does no harm.
func (s *Server) Client(db int) *redis.Client {
	return s.ClientAs("", s.cfg.Password, db)
}

// ClientAs is Client for another user.
func (s *Server) ClientAs(user, password string, db int) *redis.Client {
	o := Options(s.Addr(), db)
	o.Username, o.Password = user, password
	c := redis.NewClient(o)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients = append(s.clients, c)
	return c
}

// SilenceClients switches off what go-redis writes to standard error about
// broken connections, which tests and the demo break on purpose. It holds for
// the whole process; call it first thing in TestMain or main.
func SilenceClients() { redis.SetLogger(silence{}) }

type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}
