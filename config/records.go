package config

import (
	"errors"
	"fmt"
	"reflect"

	"go.yaml.in/yaml/v3"
)

// A key may hold a list of records: structs of texts, secrets and lists of texts. Outside a file
// it is written as YAML or JSON too: [{user: app, password: …}].

func isRecords(typ reflect.Type) bool {
	return typ.Kind() == reflect.Slice && typ.Elem().Kind() == reflect.Struct
}

// parseRecords reads the list. Its errors quote nothing of the text, which may hold
// secrets.
func parseRecords(typ reflect.Type, text string) (any, error) {
	list := reflect.Zero(typ)
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		return nil, fmt.Errorf("is not valid YAML: write %s", wanted(typ))
	}
	if len(document.Content) == 0 || isNull(document.Content[0]) {
		return list.Interface(), nil
	}
	node := resolve(document.Content[0])
	if node.Kind != yaml.SequenceNode {
		return nil, fmt.Errorf("is no list: write %s", wanted(typ))
	}
	var problems []error
	for i, item := range node.Content {
		record, err := parseRecord(typ.Elem(), resolve(item))
		if err != nil {
			problems = append(problems, fmt.Errorf("entry %d %w", i, err))
			continue
		}
		list = reflect.Append(list, record)
	}
	return list.Interface(), errors.Join(problems...)
}

func parseRecord(typ reflect.Type, node *yaml.Node) (reflect.Value, error) {
	record := reflect.New(typ).Elem()
	if node.Kind != yaml.MappingNode {
		return record, fmt.Errorf("is no record: write %s", wanted(reflect.SliceOf(typ)))
	}
	names := recordKeys(typ)
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, value := resolve(node.Content[i]).Value, resolve(node.Content[i+1])
		at := -1
		for j, known := range names {
			if known == name {
				at = j
			}
		}
		switch {
		case at < 0:
			// The key itself may be half of a password with a comma.
			return record, fmt.Errorf("has an unknown key: did you mean %q? Put a password in quotes", nearest(name, names))
		case seen[name]:
			return record, fmt.Errorf("has %q twice: keep one", name)
		}
		seen[name] = true
		if err := setField(record.Field(at), name, value); err != nil {
			return record, err
		}
	}
	return record, nil
}

// setField reads one value. A list may be given as one text, which is then all of it.
func setField(field reflect.Value, name string, value *yaml.Node) error {
	plain := func(node *yaml.Node) bool { return node.Kind == yaml.ScalarNode && plainTags[node.ShortTag()] }
	if field.Kind() != reflect.Slice {
		if !plain(value) {
			return fmt.Errorf("has a %q that is no plain value: write one text", name)
		}
		if !isNull(value) {
			field.SetString(value.Value)
		}
		return nil
	}
	items := []*yaml.Node{value}
	if value.Kind == yaml.SequenceNode {
		items = value.Content
	} else if isNull(value) {
		items = nil
	}
	for _, item := range items {
		if item = resolve(item); !plain(item) || isNull(item) {
			return fmt.Errorf("has a %q that is no list of plain values: write such as [a, b]", name)
		}
		field.Set(reflect.Append(field, reflect.ValueOf(item.Value)))
	}
	return nil
}

func recordKeys(typ reflect.Type) []string {
	var names []string
	for i := range typ.NumField() {
		names = append(names, typ.Field(i).Tag.Get("koanf"))
	}
	return names
}

// recordsText gives the list of a file the form that it has as a flag.
func recordsText(node *yaml.Node) (string, bool) {
	text, err := yaml.Marshal(flatten(node, 3))
	return string(text), err == nil
}

// flatten copies a node without anchors and aliases, as deep as a list of records is.
func flatten(node *yaml.Node, depth int) *yaml.Node {
	node = resolve(node)
	out := &yaml.Node{Kind: node.Kind, Tag: node.Tag, Value: node.Value, Style: node.Style}
	if depth > 0 {
		for _, child := range node.Content {
			out.Content = append(out.Content, flatten(child, depth-1))
		}
	}
	return out
}

// recordsNode writes the list, secrets redacted and what is empty left out.
func recordsNode(list reflect.Value) *yaml.Node {
	out := &yaml.Node{Kind: yaml.SequenceNode}
	if list.Len() == 0 {
		out.Style = yaml.FlowStyle
	}
	for i := range list.Len() {
		record := &yaml.Node{Kind: yaml.MappingNode}
		for j, name := range recordKeys(list.Type().Elem()) {
			field := list.Index(i).Field(j)
			switch value := field.Interface().(type) {
			case []string:
				if len(value) > 0 {
					record.Content = append(record.Content, scalar(name, "!!str"), valueNode(value))
				}
			default:
				if field.Len() > 0 {
					record.Content = append(record.Content, scalar(name, "!!str"), scalar(fmt.Sprint(value), "!!str"))
				}
			}
		}
		out.Content = append(out.Content, record)
	}
	return out
}

// redactRecords replaces the secrets of a list by their redacted forms, in a copy.
func redactRecords[T any](list []T) []T {
	out := append([]T(nil), list...)
	for i := range out {
		record := reflect.ValueOf(&out[i]).Elem()
		for j := range record.NumField() {
			if secret, is := record.Field(j).Interface().(Secret); is {
				record.Field(j).SetString(secret.String())
			}
		}
	}
	return out
}
