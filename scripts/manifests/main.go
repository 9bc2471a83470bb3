// Command manifests reads objects of Kubernetes from its standard input and checks that
// each is one: that its kind exists, that every field does, and that it has the right type.
// It is a module of its own, so that Crossfade does not depend on Kubernetes.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/yaml"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "manifests:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{appsv1.AddToScheme, corev1.AddToScheme, policyv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true})
	reader := yaml.NewYAMLReader(bufio.NewReader(in))
	for count := 0; ; count++ {
		text, err := reader.Read()
		if errors.Is(err, io.EOF) && count > 0 {
			return nil
		} else if err != nil {
			return fmt.Errorf("reading the objects: %w", err)
		}
		_, kind, err := strict.Decode(text, nil, nil)
		if err != nil {
			return fmt.Errorf("object %d: %w", count+1, err)
		}
		if _, err := fmt.Fprintln(out, kind.Kind, "is as Kubernetes wants it"); err != nil {
			return err
		}
	}
}
