package conn

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/redis/go-redis/v9"
)

// RouteLogs sends what go-redis says to log, at the level Debug: its callers get
// the same as errors, with more to them. The logger of go-redis is the process's:
// call it once, before any pool is used.
func RouteLogs(log *slog.Logger) { redis.SetLogger(logs{log}) }

type logs struct{ log *slog.Logger }

// Printf implements go-redis' Logging.
func (l logs) Printf(ctx context.Context, format string, args ...any) {
	if l.log.Enabled(ctx, slog.LevelDebug) {
		l.log.DebugContext(ctx, "go-redis", "says", fmt.Sprintf(format, args...))
	}
}
