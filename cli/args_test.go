package cli

import (
	"io"
	"strings"
	"testing"
)

func TestArrange(t *testing.T) {
	for _, test := range []struct{ name, typed, want string }{
		{"nothing", "virtmesh", "virtmesh"},
		{"already in order", "vm ls -n prod", "vm ls -n prod"},
		{"flag after the argument", "vm show web -n prod", "vm show -n prod web"},
		{"flags around arguments", "get -n prod vm web -o yaml", "get -n prod -o yaml vm web"},
		{"value after =", "get vm -o=json web", "get -o=json vm web"},
		{"long value after =", "get vm --output=json web", "get --output=json vm web"},
		{"bool flag takes no value", "get vm -A web", "get -A vm web"},
		{"bool flag with a value", "delete vm web --wait=false", "delete --wait=false vm web"},
		{"global flag after the command", "vm ls --kubeconfig k.yaml", "--kubeconfig k.yaml vm ls"},
		{"global flag after the argument", "vm show web --host host2", "--host host2 vm show web"},
		{"global flag between the names", "vm --socket s ls", "--socket s vm ls"},
		{"global flag with =", "status --kubeconfig=k.yaml", "--kubeconfig=k.yaml status"},
		{"parent's flag after the subcommand", "lab up --dir d --hosts 2", "lab --dir d up --hosts 2"},
		{"parent's flag before the subcommand", "lab --dir d up", "lab --dir d up"},
		{"parent's flag after the argument", "lab kill host1 --dir d", "lab --dir d kill host1"},
		{"value that is a command's name", "--context vm vm ls", "--context vm vm ls"},
		{"argument that is a command's name", "vm show ls -n vm", "vm show -n vm ls"},
		{"argument that is a sibling's name", "vm start stop vm", "vm start stop vm"},
		{"standard input as a value", "apply -f -", "apply -f -"},
		{"standard input as an argument", "lab image -", "lab image -"},
		{"repeated flag", "apply -f a -f b", "apply -f a -f b"},
		{"negative value", "vm stop web --grace-period -1", "vm stop --grace-period -1 web"},
		{"value missing", "vm show web -n", "vm show -n web"},
		{"unknown flag stays with the command", "vm show web --nope x", "vm show --nope web x"},
		{"help", "vm create --help", "vm create --help"},
		{"help after an argument", "vm create web -h", "vm create -h web"},
		{"help command", "help vm create", "help vm create"},
		{"nothing after -- is a flag", "vm start a -n x -- -b -n", "vm start -n x -- a -b -n"},
		{"only --", "vm start --", "vm start --"},
		{"exec leaves the command alone", "lab exec host1 -- ls -l --dir x", "lab exec host1 -- ls -l --dir x"},
		{"exec without --", "lab exec host1 virsh -c qemu:///system list --all", "lab exec host1 virsh -c qemu:///system list --all"},
		{"exec keeps the command's own --", "lab exec host1 -- env -- ls", "lab exec host1 -- env -- ls"},
		{"exec with the lab's flag", "lab exec --dir d host1 -- ls", "lab --dir d exec host1 -- ls"},
		{"exec with a global flag", "--kubeconfig k lab exec host1 -- ls --kubeconfig z", "--kubeconfig k lab exec host1 -- ls --kubeconfig z"},
		{"completion stays last", "vm show web -n prod --generate-bash-completion", "vm show -n prod web --generate-bash-completion"},
		{"completion is no value", "vm ls -n --generate-bash-completion", "vm ls -n --generate-bash-completion"},
	} {
		t.Run(test.name, func(t *testing.T) {
			typed := strings.Fields("virtmesh " + strings.TrimPrefix(test.typed, "virtmesh"))
			before := strings.Join(typed, " ")
			got := strings.Join(arrangeFlags(newApp(nil, io.Discard, io.Discard), typed), " ")
			want := strings.TrimSpace("virtmesh " + strings.TrimPrefix(test.want, "virtmesh"))
			if got != want {
				t.Errorf("arrangeFlags(%q)\n got %q\nwant %q", test.typed, got, want)
			}
			if after := strings.Join(typed, " "); after != before {
				t.Errorf("arrange changed its input to %q", after)
			}
		})
	}
}

func TestArrangeNothing(t *testing.T) {
	if got := arrangeFlags(newApp(nil, io.Discard, io.Discard), nil); len(got) != 0 {
		t.Errorf("got %q, want nothing", got)
	}
}

// FuzzArrange holds that no word is lost, added or changed.
func FuzzArrange(f *testing.F) {
	for _, seed := range []string{"vm show web -n prod", "lab exec h -- ls -l", "-- --", "--kubeconfig", "get -o=json - -- x --generate-bash-completion"} {
		f.Add(seed)
	}
	app := newApp(nil, io.Discard, io.Discard)
	f.Fuzz(func(t *testing.T, line string) {
		typed := append([]string{"virtmesh"}, strings.Fields(line)...)
		count := map[string]int{}
		for _, word := range typed {
			count[word]++
		}
		got := arrangeFlags(app, typed)
		if len(got) != len(typed) || got[0] != "virtmesh" {
			t.Fatalf("arrangeFlags(%q) = %q", typed, got)
		}
		for _, word := range got {
			if count[word]--; count[word] < 0 {
				t.Fatalf("arrangeFlags(%q) = %q has a word too often: %q", typed, got, word)
			}
		}
	})
}
