package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"reflect"
	"strconv"
	"strings"
)

// OpenAPI describes all paths, as a document of OpenAPI 3.0: it is made of the table that
// requests go by and of the types of bodies and replies, so that nothing in it is said
// twice. It is the same for all sidecars of a version.
func OpenAPI() []byte { return []byte(describePaths()) }

// description is the document as a reply.
type description []byte

func (d description) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(d)
}

// object is one of JSON: encoding sorts the names.
type object = map[string]any

// alwaysRefuses is what any path may refuse with: where a token is missing or wrong, to who
// may only look or comes from elsewhere, to who sends too much, and to who guesses tokens.
var alwaysRefuses = []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestEntityTooLarge, http.StatusTooManyRequests}

const aboutAPI = "What the sidecar answers at the operator's address, to the dashboard, to the other verbs and to programs. " +
	"Paths and fields stay within /v1; more of them may come. " +
	"Where admin.token is set it is asked for, and whoever shows admin.view_token may read. " +
	"A HEAD is answered where a GET is, and other methods get 405."

// describePaths makes the document of a server that serves nobody: what a path is does not
// hang on the settings.
func describePaths() description {
	sch := newSchemas()
	paths := object{}
	for at, r := range (&Server{}).table(nil, nil) {
		paths[at] = object{strings.ToLower(r.method): r.describe(sch, at)}
	}
	failed := sch.of(reflect.TypeFor[Error]())
	responses := object{}
	for code, about := range refusals {
		responses[strconv.Itoa(code)] = object{"description": about, "content": content("application/json", failed)}
	}
	text, err := json.MarshalIndent(object{
		"openapi":  "3.0.3",
		"info":     object{"title": "Crossfade", "version": "1", "description": aboutAPI, "license": object{"name": "Apache-2.0"}},
		"security": []object{{}, {"token": []string{}}},
		"paths":    paths,
		"components": object{
			"securitySchemes": object{"token": object{"type": "http", "scheme": "bearer"}},
			"responses":       responses,
			"schemas":         sch.named,
		},
	}, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("describing the paths: %v", err)) // it is made of maps and texts
	}
	return append(text, '\n')
}

// refusals are all that there are.
var refusals = map[int]string{
	http.StatusBadRequest:            "The body is wrong.",
	http.StatusUnauthorized:          "The token is missing or wrong.",
	http.StatusForbidden:             "Who asks may look only, or the request comes from another web page or by a foreign name.",
	http.StatusNotFound:              "There is none yet.",
	http.StatusConflict:              "Refused by a check; nothing was changed.",
	http.StatusRequestEntityTooLarge: "The body is too long.",
	http.StatusUnsupportedMediaType:  "The body is not application/json.",
	http.StatusTooManyRequests:       "Too many wrong tokens came from there; Retry-After says when to try again.",
	http.StatusInternalServerError:   "It was tried and has failed.",
	http.StatusServiceUnavailable:    "The sidecar starts or stops, or has too much to do.",
}

func (r route) describe(sch *schemas, at string) object {
	ok := object{"description": "Done, or what was asked for."}
	if r.gives != nil {
		ok["content"] = content("application/json", sch.of(r.gives))
	} else {
		ok["content"] = content(r.media, object{})
	}
	responses := object{"200": ok}
	needs := "viewer"
	op := object{"summary": r.about, "operationId": strings.TrimSuffix(path.Base(at), ".json"), "responses": responses}
	for _, code := range append(alwaysRefuses[:len(alwaysRefuses):len(alwaysRefuses)], r.refuses...) {
		responses[strconv.Itoa(code)] = object{"$ref": "#/components/responses/" + strconv.Itoa(code)}
	}
	if isProbe(at) {
		needs = "nobody"
		op["security"] = []object{}
		delete(responses, strconv.Itoa(http.StatusUnauthorized))
		delete(responses, strconv.Itoa(http.StatusTooManyRequests))
	}
	if r.method != http.MethodGet || r.inside {
		needs = string(operates)
	}
	op["x-role"] = needs
	if r.asks != nil {
		op["requestBody"] = object{"required": false, "content": content("application/json", sch.strict(r.asks))}
	}
	if at == pathEvents {
		op["x-events"] = object{"hello": sch.of(reflect.TypeFor[Hello]()), "status": sch.of(reflect.TypeFor[Moment]())}
	}
	return op
}

func content(media string, schema object) object {
	return object{media: object{"schema": schema}}
}
