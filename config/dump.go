package config

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Redacted returns a copy whose secrets are replaced by their redacted forms, for
// encoders that do not know Secret.
func (c Config) Redacted() Config {
	hide := func(secrets ...*Secret) {
		for _, s := range secrets {
			*s = Secret(s.String())
		}
	}
	hide(&c.Source.URL, &c.Source.Password, &c.Source.Sentinel.Password,
		&c.Target.URL, &c.Target.Password, &c.Target.Sentinel.Password,
		&c.Fleet.Etcd.Password, &c.Admin.Token, &c.Admin.ViewToken)
	c.Databases = maps.Clone(c.Databases)
	c.LeaveOut = slices.Clone(c.LeaveOut)
	c.Sync.Schedule = slices.Clone(c.Sync.Schedule)
	c.Sync.Match, c.Sync.Types = slices.Clone(c.Sync.Match), slices.Clone(c.Sync.Types)
	c.Listen, c.Admin.Operators = slices.Clone(c.Listen), slices.Clone(c.Admin.Operators)
	c.Fleet.Etcd.Endpoints = slices.Clone(c.Fleet.Etcd.Endpoints)
	c.Hooks = redactRecords(c.Hooks)
	c.Proxy.Credentials, c.Proxy.Users = redactRecords(c.Proxy.Credentials), redactRecords(c.Proxy.Users)
	c.Proxy.ProxyProtocolFrom = slices.Clone(c.Proxy.ProxyProtocolFrom)
	return c
}

// Dump writes the effective configuration as YAML, with secrets redacted. It is a
// configuration file again once the secrets are filled in; what came from a token
// file is left to that file.
func (c Config) Dump(w io.Writer) error {
	t := newTree()
	root := &yaml.Node{Kind: yaml.MappingNode}
	sections := map[string]*yaml.Node{"": root}
	var section func(path string) *yaml.Node
	section = func(path string) *yaml.Node {
		if node, there := sections[path]; there {
			return node
		}
		parent, name := splitPath(path)
		node := &yaml.Node{Kind: yaml.MappingNode}
		sections[path] = node
		above := section(parent)
		above.Content = append(above.Content, scalar(name, "!!str"), node)
		return node
	}
	if c.Admin.TokenFile != "" {
		c.Admin.Token = ""
	}
	if c.Admin.ViewTokenFile != "" {
		c.Admin.ViewToken = ""
	}
	values := t.flat(c)
	for _, k := range t.keys {
		parent, name := splitPath(k.path)
		node := section(parent)
		node.Content = append(node.Content, scalar(name, "!!str"), valueNode(values[k.path]))
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(root); err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	_, err := w.Write(out.Bytes())
	return err
}

func splitPath(path string) (parent, name string) {
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

func scalar(text, tag string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: text}
}

func valueNode(value any) *yaml.Node {
	if list := reflect.ValueOf(value); isRecords(list.Type()) {
		return recordsNode(list)
	}
	switch value := value.(type) {
	case map[int]Place:
		return placesNode(value)
	case []int:
		node := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, number := range value {
			node.Content = append(node.Content, scalar(strconv.Itoa(number), "!!int"))
		}
		return node
	case []string:
		node := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, text := range value {
			node.Content = append(node.Content, scalar(text, "!!str"))
		}
		return node
	case int:
		return scalar(strconv.Itoa(value), "!!int")
	case bool:
		return scalar(strconv.FormatBool(value), "!!bool")
	}
	node := scalar(formatValue(value), "!!str")
	if reflect.TypeOf(value).Kind() == reflect.String && node.Value == "" {
		node.Style = yaml.DoubleQuotedStyle
	}
	return node
}
