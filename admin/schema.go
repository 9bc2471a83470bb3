package admin

import (
	"encoding"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"reflect"
	"strings"
	"time"
)

// schemas describes Go types as encoding/json writes them, in the words of OpenAPI 3.0.
// Structs have a name each, and are described once.
type schemas struct {
	named object
}

func newSchemas() *schemas { return &schemas{named: object{}} }

// of describes a type. A type that writes itself in its own way, but as no text, is a
// mistake of ours, and panics.
func (s *schemas) of(t reflect.Type) object {
	if t.Kind() == reflect.Struct && !special(t) && t.Name() != "" {
		name := path.Base(t.PkgPath()) + "." + t.Name()
		if _, there := s.named[name]; !there {
			s.named[name] = object{} // it may hold itself
			s.named[name] = s.fields(t)
		}
		return object{"$ref": "#/components/schemas/" + name}
	}
	return s.plain(t)
}

// strict describes a body, of which no unknown name is taken.
func (s *schemas) strict(t reflect.Type) object {
	o := s.fields(t)
	o["additionalProperties"] = false
	return o
}

// orNull describes a type whose value may be null.
func (s *schemas) orNull(t reflect.Type) object {
	o := s.plain(t)
	if len(o) > 0 { // anything may be null in any case
		o = maps.Clone(o)
		o["nullable"] = true
	}
	return o
}

func special(t reflect.Type) bool {
	return t == reflect.TypeFor[time.Time]() || writesText(t) || writesJSON(t)
}

func writesText(t reflect.Type) bool {
	return t.Implements(reflect.TypeFor[encoding.TextMarshaler]()) || reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextMarshaler]())
}

func writesJSON(t reflect.Type) bool {
	return t.Implements(reflect.TypeFor[json.Marshaler]()) || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Marshaler]())
}

// plain describes a type without a name of its own.
func (s *schemas) plain(t reflect.Type) object {
	switch {
	case t.Kind() == reflect.Pointer:
		return s.of(t.Elem())
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[json.RawMessage](), t.Kind() == reflect.Interface:
		return object{}
	case writesJSON(t):
		panic(fmt.Sprintf("describing %v: it writes itself", t))
	case writesText(t):
		return object{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return object{"type": "integer", "format": "int64"}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return object{"type": "integer", "format": "int64", "minimum": 0}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number"}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Slice, reflect.Array:
		return object{"type": "array", "items": s.of(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": s.of(t.Elem())}
	case reflect.Struct:
		return s.fields(t)
	}
	panic(fmt.Sprintf("describing %v: there is no such thing in JSON", t))
}

// fields describes a struct: those that are always written are required.
func (s *schemas) fields(t reflect.Type) object {
	properties, required := object{}, []string{}
	s.add(t, properties, &required)
	o := object{"type": "object", "properties": properties}
	if len(required) > 0 {
		o["required"] = required
	}
	return o
}

func (s *schemas) add(t reflect.Type, properties object, required *[]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-":
			continue
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct:
			s.add(f.Type, properties, required)
			continue
		case !f.IsExported():
			continue
		case name == "":
			name = f.Name
		}
		if strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero") {
			properties[name] = s.of(f.Type)
			continue
		}
		*required = append(*required, name)
		switch f.Type.Kind() {
		case reflect.Pointer:
			properties[name] = s.orNull(f.Type.Elem())
		case reflect.Slice, reflect.Map:
			properties[name] = s.orNull(f.Type)
		default:
			properties[name] = s.of(f.Type)
		}
	}
}
