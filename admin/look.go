package admin

import (
	"context"
	"net/http"

	"github.com/crossfade/crossfade/migration"
)

// check makes the checks of the next switch.
func (s *Server) check(ctx context.Context, _ *http.Request, _ struct{}) (migration.CheckReport, error) {
	return s.opt.Operator.Look(ctx)
}

// findings is what the newest check has found.
func (s *Server) findings() (migration.CheckReport, error) {
	r, ok := s.opt.Operator.LastLook()
	if !ok {
		return r, &Error{Code: http.StatusNotFound, Message: "nothing was checked since crossfade has started", Hint: "POST " + pathCheck + " checks"}
	}
	return r, nil
}
