package admin

import (
	"net/http"
	"net/http/pprof"
	"time"
)

// pathProfiles is where Go's profiles are. The command line is not among them: it may hold
// a password.
const pathProfiles = "/debug/pprof/"

// profiles are paths for who looks into the process itself. They hold no key and no value,
// and take processor time: so they are for operators on this machine.
func profiles() map[string]route {
	all := map[string]route{}
	add := func(name, about string, handler http.Handler) {
		// A profile of 30 seconds is no reply that nobody takes.
		patient := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
			handler.ServeHTTP(w, r)
		})
		r := serves(about, "application/octet-stream", func(*http.Request, []byte) (any, error) { return patient, nil })
		r.inside = true
		all[pathProfiles+name] = r
	}
	add("profile", "A profile of the processor's time, for go tool pprof; ?seconds=30.", http.HandlerFunc(pprof.Profile))
	add("trace", "A trace of the scheduler, for go tool trace; ?seconds=1.", http.HandlerFunc(pprof.Trace))
	for name, about := range map[string]string{
		"heap":      "What memory is in use by.",
		"allocs":    "What memory was taken by.",
		"goroutine": "What all goroutines do.",
		"mutex":     "What waits for mutexes.",
		"block":     "What waits.",
	} {
		add(name, about, pprof.Handler(name))
	}
	return all
}
