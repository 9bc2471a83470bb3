package admin

import (
	"context"
	"net/http"
)

// check makes the checks of the next switch.
func (s *Server) check(ctx context.Context, _ *http.Request, body []byte) (any, error) {
	if err := decode(body, &struct{}{}); err != nil {
		return nil, err
	}
	return s.opt.Operator.Look(ctx)
}

// findings is what the newest check has found.
func (s *Server) findings() (any, error) {
	r, ok := s.opt.Operator.LastLook()
	if !ok {
		return nil, &Error{Code: http.StatusNotFound, Message: "nothing was checked since crossfade has started", Hint: "POST " + pathCheck + " checks"}
	}
	return r, nil
}
