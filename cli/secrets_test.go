package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"virtmesh/agent/port/admin"
)

func TestSecretsSentence(t *testing.T) {
	for want, k := range map[string]admin.SecretKeys{
		"Secrets are encrypted with the key ab":                                                                                                                                                    {Active: "ab", Current: 4},
		"Secrets are encrypted with the key ab; still to be encrypted with it: 5":                                                                                                                  {Active: "ab", Older: 3, Clear: 2},
		"Secrets are in clear in the mesh's state: they are encrypted from feature level 4 on, once a recovery bundle has their key":                                                               {Clear: 1},
		"Secrets are in clear in the mesh's state; the key cd encrypts once a recovery bundle has it: 'virtmesh keyring bundle --output FILE' as root on a voter":                                  {Waiting: "cd", Clear: 1},
		"Secrets are encrypted with the key ab; a new key is being made, and encrypts within seconds if every voter answers":                                                                       {Active: "ab", Wanted: true, StaysGood: true},
		"Secrets are encrypted with the key ab; the key cd encrypts once the recovery bundle gives it back, which takes seconds":                                                                   {Active: "ab", Waiting: "cd", StaysGood: true},
		"Secrets are encrypted with the key ab; a new key is being made, and encrypts once a recovery bundle has it: 'virtmesh keyring bundle --output FILE' as root on a voter, in a few seconds": {Active: "ab", Wanted: true},
		"Secrets are encrypted with the key ab; the recovery bundle gives back the key cd, which encrypts once every voter has it; still to get the new key: host2; the key waits for voters that do not answer, host3, host4: start them, or remove those that are gone, with 'virtmesh node remove'": {
			Active: "ab", Waiting: "cd", Bundled: true, Lacking: []string{"host2"}, Silent: []string{"host3", "host4"}},
	} {
		if got := secretsSentence(&k); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// The key is replaced without --status, and not with it.
func TestSecretsRotateKey(t *testing.T) {
	mesh := wellMesh()
	mesh.secrets = admin.SecretKeys{Active: "ab"}
	connection := serve(t, mesh)
	var keys admin.SecretKeys
	if code, stdout, stderr := run(t, append(connection, "secrets", "rotate-key", "--status", "-o", "json")...); code != 0 || json.Unmarshal([]byte(stdout), &keys) != nil || keys.Active != "ab" || keys.Wanted {
		t.Errorf("status: %d %q %q", code, stdout, stderr)
	}
	if code, stdout, stderr := run(t, append(connection, "secrets", "rotate-key")...); code != 0 || !strings.Contains(stdout, "virtmesh keyring bundle --output FILE") {
		t.Errorf("rotate: %d %q %q", code, stdout, stderr)
	}
}
