// Kubecheck strictly decodes the manifests of a folder into the types of Kubernetes, first as kustomize builds them,
// then each file alone. With -print it prints what kustomize builds instead.
//
// It fails at an unknown field, and at a pod that the restricted Pod Security Standard refuses.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "-print" {
		built, err := build(os.Args[2])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Stdout.Write(built)
		return
	}
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: kubecheck [-print] FOLDER")
		os.Exit(2)
	}
	n, err := checkFolder(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(n, "objects are valid")
}

// notManifests are files of a kustomization that never reach the API server.
var notManifests = []string{"kustomization.yaml", "keyturn.yaml"}

// build returns what kustomize makes of a folder.
func build(folder string) ([]byte, error) {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		return nil, err
	}
	return built.AsYaml()
}

func checkFolder(folder string) (n int, err error) {
	text, err := build(folder)
	if err != nil {
		return 0, err
	}
	if n, err = check("kustomize", text); err != nil {
		return n, err
	}
	files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil {
		return n, err
	}
	for _, file := range files {
		if slices.Contains(notManifests, filepath.Base(file)) {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return n, err
		}
		more, err := check(file, text)
		if err != nil {
			return n, err
		}
		n += more
	}
	return n, nil
}

// check decodes each document of a file, and returns their number.
func check(name string, text []byte) (n int, err error) {
	decode := newDecoder()
	for documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text))); ; n++ {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("%s: %w", name, err)
		}
		object, _, err := decode.Decode(document, nil, nil)
		if err == nil {
			err = admit(object)
		}
		if err != nil {
			return n, fmt.Errorf("%s: %w", name, err)
		}
	}
}

func newDecoder() runtime.Decoder {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{appsv1.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme,
		policyv1.AddToScheme} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}

// admit returns every objection of the latest restricted Pod Security Standard to the pods of a Deployment.
func admit(object runtime.Object) error {
	deployment, ok := object.(*appsv1.Deployment)
	if !ok {
		return nil
	}
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return err
	}
	level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	template := deployment.Spec.Template
	for _, result := range evaluator.EvaluatePod(level, &template.ObjectMeta, &template.Spec) {
		if !result.Allowed {
			err = errors.Join(err, fmt.Errorf("%s: %s", result.ForbiddenReason, result.ForbiddenDetail))
		}
	}
	return err
}
