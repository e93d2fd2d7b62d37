package kinds

import (
	"encoding/json"

	k8scni "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"virtmesh/netplug/nad"
)

func networkAttachmentDefinitionKind() *Kind {
	type definition = k8scni.NetworkAttachmentDefinition
	return &Kind{
		GVK:      k8scni.SchemeGroupVersion.WithKind("NetworkAttachmentDefinition"),
		Resource: "network-attachment-definitions", Singular: "network-attachment-definition",
		ShortNames: []string{"net-attach-def"}, Namespaced: true, Generation: true,
		Object: &definition{}, List: &k8scni.NetworkAttachmentDefinitionList{},
		Support:        "works for the plugin types `bridge` and `cnv-bridge`",
		Writers:        Writers{Spec: users},
		Columns:        []Column{age},
		Warnings:       forType(warnOfNetwork),
		Validate:       validateWith(validateNAD),
		ValidateUpdate: validateUpdateWith(func(n, _ *definition) field.ErrorList { return validateNAD(n) }),
	}
}

// warnOfNetwork says why no guest can use a network: what other plugins understand may be
// stored, as in Kubernetes, and only the start of a guest would say it.
func warnOfNetwork(n *k8scni.NetworkAttachmentDefinition) []string {
	if n.Spec.Config == "" {
		return nil
	}
	if _, err := nad.Parse(n.Spec.Config); err != nil {
		return []string{"spec.config: guests cannot use this network: " + err.Error()}
	}
	return nil
}

// validateNAD requires that spec.config is a JSON object that names a plugin or a list
// of plugins.
func validateNAD(n *k8scni.NetworkAttachmentDefinition) field.ErrorList {
	path := field.NewPath("spec", "config")
	if n.Spec.Config == "" {
		return nil // a plugin with the network's name defines the network
	}
	var conf struct {
		Type    string `json:"type"`
		Plugins []struct {
			Type string `json:"type"`
		} `json:"plugins"`
	}
	if err := json.Unmarshal([]byte(n.Spec.Config), &conf); err != nil {
		return field.ErrorList{field.Invalid(path, n.Spec.Config, "must be a JSON object: "+err.Error())}
	}
	if conf.Type == "" && len(conf.Plugins) == 0 {
		return field.ErrorList{field.Invalid(path, n.Spec.Config, "must have a type or plugins")}
	}
	for i, p := range conf.Plugins {
		if p.Type == "" {
			return field.ErrorList{field.Required(path.Child("plugins").Index(i).Child("type"), "")}
		}
	}
	return nil
}
