package admin

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/apicheck"
	"github.com/crossfade/crossfade/internal/audit"
	"github.com/crossfade/crossfade/migration"
)

var api = sync.OnceValues(func() (*apicheck.API, error) { return apicheck.Read(OpenAPI()) })

// asDescribed fails for a reply that is not as OpenAPI says.
func asDescribed(t *testing.T, method, path string, code int, header http.Header, body []byte) {
	t.Helper()
	doc, err := api()
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Holds(method, path, code, header.Get("Content-Type"), body); err != nil {
		t.Error(err)
	}
}

// TestOpenAPIIsWhatIsDone asks for every path with every method, with every field of its
// body and with one that is not there, and compares with what is described.
func TestOpenAPIIsWhatIsDone(t *testing.T) {
	doc, err := api()
	if err != nil {
		t.Fatal(err)
	}
	s, c, _ := startWith(t, Options{Operator: &full{}, Meter: fullGauge{}, Serving: func() bool { return true }, Version: "v1"})
	paths := slices.Sorted(func(yield func(string) bool) {
		for at := range s.routes() {
			if !yield(at) {
				return
			}
		}
	})
	var done []string
	for _, at := range paths {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
			if at == pathEvents && method == "GET" || strings.HasPrefix(at, pathProfiles) && method == "GET" {
				done = append(done, method+" "+at)
				continue // they take a while: below
			}
			code, body, header := raw(t, c, method, at, "", nil)
			if code != http.StatusMethodNotAllowed {
				done = append(done, method+" "+at)
			}
			asDescribed(t, method, at, code, header, body)
		}
		fields := doc.BodyFields("POST", at)
		js := map[string]string{"Content-Type": "application/json"}
		for _, field := range fields {
			body, _ := json.Marshal(map[string]any{field: doc.BodyExample("POST", at, field)})
			code, text, _ := raw(t, c, "POST", at, string(body), js)
			if strings.Contains(string(text), "unknown field") || strings.Contains(string(text), "cannot unmarshal") {
				t.Errorf("POST %s %s: %d %s", at, body, code, text)
			}
		}
		if r := s.routes()[at]; r.method == http.MethodPost {
			if code, text, _ := raw(t, c, "POST", at, `{"nonsense":1}`, js); code != 400 || !strings.Contains(string(text), "nonsense") {
				t.Errorf("POST %s takes any field: %d %s", at, code, text)
			}
		}
	}
	slices.Sort(done)
	if want := doc.Operations(); !slices.Equal(done, want) {
		t.Errorf("done are\n%v\ndescribed are\n%v", done, want)
	}
	if code, body, _ := raw(t, c, "GET", pathOpenAPI, "", nil); code != 200 || string(body) != string(OpenAPI()) {
		t.Errorf("the description: %d", code)
	}

	page := open(t, c, nil)
	for _, want := range []string{"hello", "status"} {
		var data json.RawMessage
		name, err := page.next(&data)
		if err == nil && name == want {
			err = doc.HoldsEvent(pathEvents, name, data)
		}
		if err != nil || name != want {
			t.Errorf("event %q: %v in %s", name, err, data)
		}
	}
}

// raw sends a request and returns the reply.
func raw(t *testing.T, c config.Admin, method, path, body string, header map[string]string) (int, []byte, http.Header) {
	t.Helper()
	response := send(t, c, method, path, body, header)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, text, response.Header
}

// TestProfiles are for operators on the unix socket.
func TestProfiles(t *testing.T) {
	_, socket, _ := start(t, config.Admin{Token: "all", ViewToken: "some"}, &fake{}, nil)
	_, port, _ := start(t, config.Admin{Address: "127.0.0.1:0", Token: "all"}, &fake{}, nil)
	all, some := map[string]string{"Authorization": "Bearer all"}, map[string]string{"Authorization": "Bearer some"}
	for _, p := range []string{"heap", "goroutine", "allocs", "mutex", "block", "profile?seconds=1", "trace?seconds=0.1"} {
		at := pathProfiles + p
		if code, body, header := raw(t, socket, "GET", at, "", all); code != 200 || len(body) < 50 {
			t.Errorf("%s: %d, %d bytes", at, code, len(body))
		} else {
			asDescribed(t, "GET", at, code, header, body)
		}
		if code, _, _ := raw(t, socket, "GET", at, "", some); code != 403 {
			t.Errorf("%s for who looks: %d", at, code)
		}
		if code, _, _ := raw(t, port, "GET", at, "", all); code != 403 {
			t.Errorf("%s on a port: %d", at, code)
		}
	}
	if code, _, _ := raw(t, socket, "GET", pathProfiles+"cmdline", "", all); code != 404 {
		t.Errorf("the command line: %d", code)
	}
}

// FuzzDoor: whatever comes, the answer is one that is described, and only what asks for it
// in the right way is carried out.
func FuzzDoor(f *testing.F) {
	for _, seed := range [][4]string{
		{"POST", "/v1/cutover", `{"dry_run":true}`, "application/json"},
		{"POST", "/v1/throttle", `{"keys_per_second":-1}`, "application/json"},
		{"POST", "/v1/verify", `{"sample":1e999}`, "application/json"},
		{"GET", "/v1/status", "", ""}, {"PUT", "//v1/../v1/status?a=%", "{", "text/plain"}, {"POST", "/v1/shadow", `{"percent":101}`, "application/json; charset"},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3], "127.0.0.1", "", "")
	}
	f.Add("POST", "/v1/abort", "", "", "evil.example", "http://evil.example", "Bearer all")
	doc, err := api()
	if err != nil {
		f.Fatal(err)
	}
	log, err := audit.Open(f.TempDir()+"/audit", discard())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = log.Close() })
	serve := func(c config.Admin) http.Handler {
		return New(Options{Config: c, Operator: &fake{}, Version: "v1", Audit: log, Serving: func() bool { return true }}, discard()).handler()
	}
	open, guarded := serve(config.Admin{Address: "127.0.0.1:1"}), serve(config.Admin{Address: "127.0.0.1:1", Token: "hidden-token"})
	f.Fuzz(func(t *testing.T, method, path, body, kind, host, origin, authorization string) {
		if !strings.HasPrefix(path, "/") || strings.HasPrefix(path, pathEvents) || strings.HasPrefix(path, pathProfiles) {
			return
		}
		for name, h := range map[string]http.Handler{"open": open, "guarded": guarded} {
			r, err := http.NewRequest(method, "http://127.0.0.1"+path, strings.NewReader(body))
			if err != nil {
				return
			}
			r.Host, r.RemoteAddr = host, fmt.Sprintf("10.0.%d.%d:1", len(body)%256, len(path)%256)
			for header, value := range map[string]string{"Content-Type": kind, "Origin": origin, "Authorization": authorization} {
				if value != "" {
					r.Header.Set(header, value)
				}
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code == 500 && r.URL.Path != pathRollback && r.URL.Path != pathComplete {
				t.Errorf("%s: %s %q: %d %s", name, method, path, w.Code, w.Body)
			}
			if err := doc.Holds(method, r.URL.Path, w.Code, w.Header().Get("Content-Type"), w.Body.Bytes()); err != nil && w.Code != http.StatusMethodNotAllowed {
				t.Errorf("%s: %v", name, err)
			}
			if name == "guarded" && w.Code == 200 && strings.HasPrefix(r.URL.Path, "/v1/") && !strings.Contains(authorization, "hidden-token") {
				t.Errorf("%s %q was answered without the token", method, path)
			}
			if strings.Contains(w.Body.String(), "hidden-token") && !strings.Contains(path+host, "hidden-token") {
				t.Errorf("%s %q shows the token: %s", method, path, w.Body)
			}
		}
	})
}

var _ Operator = (*migration.Migration)(nil)
