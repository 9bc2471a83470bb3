// Package apicheck holds what a server answers against the OpenAPI description that it gives of itself.
// It owns reading such a description, strictly: a field that it does not name is a mistake.
// It is for tests, and no part of the program.
package apicheck

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
)

// API is a description.
type API struct{ doc *openapi3.T }

// Read reads a description, and holds it to what OpenAPI says of descriptions.
func Read(text []byte) (*API, error) {
	var all any
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("reading the description: %w", err)
	}
	loader := openapi3.NewLoader()
	asIs, err := loader.LoadFromData(text)
	if err == nil {
		err = asIs.Validate(context.Background())
	}
	if err != nil {
		return nil, fmt.Errorf("reading the description: %w", err)
	}
	closed, err := json.Marshal(tighten(all))
	if err != nil {
		return nil, fmt.Errorf("reading the description: %w", err)
	}
	strict, err := loader.LoadFromData(closed)
	if err != nil {
		return nil, fmt.Errorf("reading the description: %w", err)
	}
	return &API{strict}, nil
}

// tighten forbids fields that are not named. Clients are to take those that come later.
func tighten(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, inner := range v {
			v[name] = tighten(inner)
		}
		if _, object := v["properties"].(map[string]any); object && v["type"] == "object" && v["additionalProperties"] == nil {
			v["additionalProperties"] = false
		}
	case []any:
		for i := range v {
			v[i] = tighten(v[i])
		}
	}
	return v
}

// Operations are all of them, as "GET /path", sorted.
func (a *API) Operations() (list []string) {
	for at, item := range a.doc.Paths.Map() {
		for method := range item.Operations() {
			list = append(list, method+" "+at)
		}
	}
	slices.Sort(list)
	return list
}

func (a *API) operation(method, path string) *openapi3.Operation {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	path, _, _ = strings.Cut(path, "?")
	item := a.doc.Paths.Value(path)
	if item == nil {
		return nil
	}
	return item.GetOperation(method)
}

// BodyFields are the names of the fields of a body, nil where none is read.
func (a *API) BodyFields(method, path string) []string {
	op := a.operation(method, path)
	if op == nil || op.RequestBody == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(op.RequestBody.Value.Content["application/json"].Schema.Value.Properties))
}

// BodyExample makes a value for a field of a body that is of its type.
func (a *API) BodyExample(method, path, field string) any {
	schema := a.operation(method, path).RequestBody.Value.Content["application/json"].Schema.Value.Properties[field].Value
	switch {
	case schema.Type.Is("boolean"):
		return true
	case schema.Type.Is("integer"), schema.Type.Is("number"):
		return 1
	}
	return "1s"
}

// Holds reports how a reply is not as it is described. Of what is at no path, and of a
// method that a path does not take, there is nothing to describe.
func (a *API) Holds(method, path string, code int, media string, body []byte) error {
	if code == http.StatusMethodNotAllowed {
		if a.operation(method, path) != nil {
			return fmt.Errorf("%s %s is described, and is not allowed", method, path)
		}
		return nil
	}
	op := a.operation(method, path)
	if op == nil {
		return nil
	}
	response := op.Responses.Status(code)
	if response == nil {
		return fmt.Errorf("%s %s: the status %d is not described: %s", method, path, code, body)
	}
	kind, _, _ := strings.Cut(media, ";")
	content := response.Value.Content[kind]
	if content == nil {
		return fmt.Errorf("%s %s: %d with %q is not described", method, path, code, media)
	}
	if kind != "application/json" || method == http.MethodHead {
		return nil
	}
	if err := fits(content.Schema, body); err != nil {
		return fmt.Errorf("%s %s: %d: %w in %s", method, path, code, err, body)
	}
	return nil
}

// HoldsEvent reports how an event of a stream is not as it is described.
func (a *API) HoldsEvent(path, name string, data []byte) error {
	op := a.operation(http.MethodGet, path)
	events, _ := op.Extensions["x-events"].(map[string]any)
	ref, _ := events[name].(map[string]any)
	at, _ := ref["$ref"].(string)
	schema := a.doc.Components.Schemas[at[strings.LastIndex(at, "/")+1:]]
	if schema == nil {
		return fmt.Errorf("the event %q is not described", name)
	}
	return fits(schema, data)
}

func fits(schema *openapi3.SchemaRef, text []byte) error {
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		return err
	}
	if schema == nil || schema.Value == nil {
		return nil
	}
	return schema.Value.VisitJSON(value, openapi3.MultiErrors())
}
