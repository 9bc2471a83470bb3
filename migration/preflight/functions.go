package preflight

import (
	"context"
	"strings"

	"github.com/redis/go-redis/v9"
)

// checkFunctions compares the function libraries (7.0 and newer).
func checkFunctions(ctx context.Context, in *inspection) []Finding {
	from, err := libraries(ctx, in.from)
	if err != nil {
		return one(unknown(in.from, "FUNCTION LIST", err))
	}
	if len(from) == 0 {
		return one(pass("%s: no function libraries", in.from))
	}
	to, err := libraries(ctx, in.to)
	if err != nil {
		return one(unknown(in.to, "FUNCTION LIST", err))
	}
	if to == nil {
		return one(fail("Use a target of version 7.0 or newer, or delete the functions if nobody calls them.",
			"the %s has %s, and %s knows no functions", in.FromName, plural(int64(len(from)), "function library", "function libraries"), in.to))
	}
	if in.Resumed || in.stage == StageCutover {
		return one(pass("%s carried over", plural(int64(len(from)), "function library is", "function libraries are")))
	}
	var other []string
	for name, code := range from {
		if there, has := to[name]; has && there != code {
			other = append(other, quoted(name))
		}
	}
	if len(other) > 0 {
		return one(warn("Make sure that nobody needs those of the "+in.ToName+".",
			"function libraries of the same name and other content on the %s will be replaced: %s", in.ToName, strings.Join(other, ", ")))
	}
	return one(pass("%s will be carried over", plural(int64(len(from)), "function library", "function libraries")))
}

// libraries returns code by name, nil when the server knows no functions.
func libraries(ctx context.Context, s *server) (map[string]string, error) {
	if s.info.compatible().before(version{7, 0, 0}) {
		return nil, nil
	}
	list, err := s.client().FunctionList(ctx, redis.FunctionListQuery{WithCode: true}).Result()
	if err != nil {
		return nil, err
	}
	out := make(map[string]string, len(list))
	for _, lib := range list {
		out[lib.Name] = lib.Code
	}
	return out, nil
}
