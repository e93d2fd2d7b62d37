package guestimage

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// kernelModule is a loadable module's name and its file.
type kernelModule struct{ Name, Path string }

// modulesInOrder finds the wanted modules and everything they need below dir
// and returns them so that loading them one after the other works. A kernel
// package carries no modules.dep (depmod writes it on installation), so the
// dependencies are read from the modules. Names in wanted that have no file are
// taken to be built into the kernel.
func modulesInOrder(dir string, wanted []string) ([]kernelModule, error) {
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(p, ".ko") {
			files[moduleName(strings.TrimSuffix(filepath.Base(p), ".ko"))] = p
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var (
		order []kernelModule
		seen  = map[string]bool{}
		visit func(name string) error
	)
	visit = func(name string) error {
		name = moduleName(name)
		path, ok := files[name]
		if !ok || seen[name] {
			return nil
		}
		seen[name] = true
		needs, err := moduleNeeds(path)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, n := range needs {
			if err := visit(n); err != nil {
				return err
			}
		}
		order = append(order, kernelModule{Name: name, Path: path})
		return nil
	}
	for _, name := range wanted {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// moduleNeeds reads a module's "depends" line.
func moduleNeeds(path string) ([]string, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f, err := elf.NewFile(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	sec := f.Section(".modinfo")
	if sec == nil {
		return nil, fmt.Errorf("no .modinfo section")
	}
	info, err := sec.Data()
	if err != nil {
		return nil, err
	}
	var needs []string
	for _, kv := range strings.Split(string(info), "\x00") {
		if v, ok := strings.CutPrefix(kv, "depends="); ok && v != "" {
			needs = append(needs, strings.Split(v, ",")...)
		}
	}
	sort.Strings(needs)
	return needs, nil
}
