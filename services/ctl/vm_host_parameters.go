package ctl

import (
	"encoding/pem"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/vmhost-project/vmhost/pkg/apierror"
	vmhostv1 "github.com/vmhost-project/vmhost/proto/gen/vmhost/v1"
	"github.com/vmhost-project/vmhost/services/ctl/internal/display"
)

func (a *app) vmHostParameters() *cobra.Command {
	var certificate bool
	c := &cobra.Command{
		Use: "parameters NAME", Short: "Show how a host is reached, without any secret", Args: takes(1), ValidArgsFunction: a.completeArg(completeHosts),
		Example: "  vmhostctl vm-host parameters l1\n  vmhostctl vm-host parameters l1 --certificate > l1.crt",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			h, err := call(ctx, api.vmHosts.GetVmHost, &vmhostv1.GetVmHostRequest{Name: full(vmHosts, args[0])})
			if err != nil {
				return fail(err, "show how VM host %s is reached", args[0])
			}
			info := h.GetCredentialInfo()
			if certificate {
				if info.GetCertificatePem() == "" {
					e := apierror.New(codes.FailedPrecondition, vmhostv1.ErrorReason_WRONG_STATE, "the host has no client certificate; its credential is %s", first(h.GetCredentialKind(), "none")).
						WithHint("hosts that are reached by TLS have one, such as LXD servers")
					return fail(e, "show the certificate of VM host %s", args[0])
				}
				_, err := a.stdout.Write(onlyCertificates(info.GetCertificatePem()))
				return err
			}
			return a.printBlock(parametersOf(h), h.GetName(), func(b *display.Block) {
				b.Add("Name", display.ID(h.GetName()))
				b.Add("Type", hostTypeWord(h))
				b.Add("Address", h.GetAddress())
				b.Add("Project", h.GetProject())
				b.Add("Cluster", clusterText(h))
				b.Add("Rack", rackOf(h))
				b.Add("Host key", h.GetHostKey())
				b.Add("Credential", h.GetCredentialKind())
				b.Add("SSH public key", info.GetSshPublicKey())
				b.Add("Certificate", info.GetCertificateFingerprint())
				b.Add("Certificate ends", display.Time(a.now(), info.GetCertificateExpireTime()))
				if info.GetTrustSecretStored() {
					b.Add("Trust secret", "kept until the server trusts the certificate")
				}
			})
		},
	}
	c.Flags().BoolVar(&certificate, "certificate", false, "print the client certificate, PEM, and nothing else")
	return c
}

// onlyCertificates leaves out what is between certificates.
func onlyCertificates(text string) []byte {
	var out []byte
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
		}
	}
	return out
}

// parametersOf are the fields of a host that say how it is reached.
func parametersOf(h *vmhostv1.VmHost) *vmhostv1.VmHost {
	return &vmhostv1.VmHost{
		Name: h.GetName(), Uid: h.GetUid(), Etag: h.GetEtag(), Type: h.GetType(), Address: h.GetAddress(), Project: h.GetProject(),
		ClusterMember: h.GetClusterMember(), ClusterGroup: h.GetClusterGroup(), Rack: h.GetRack(), AssignedRack: h.GetAssignedRack(),
		HostKey: h.GetHostKey(), CredentialKind: h.GetCredentialKind(), CredentialInfo: h.GetCredentialInfo(),
	}
}

func clusterText(h *vmhostv1.VmHost) string {
	switch {
	case h.GetClusterMember() == "":
		return h.GetClusterGroup()
	case h.GetClusterGroup() == "":
		return "member " + h.GetClusterMember()
	default:
		return "member " + h.GetClusterMember() + " of " + h.GetClusterGroup()
	}
}

func (a *app) vmHostAddClusterMembers() *cobra.Command {
	var f changeFlags
	c := &cobra.Command{
		Use: "add-cluster-members NAME", Short: "Add a host for every other member of an LXD cluster", Args: takes(1), ValidArgsFunction: a.completeArg(completeHosts),
		Long: "Adds a host for every member of the host's LXD cluster that has none yet,\nreached and configured as the host is. They share its certificate, which the\ncluster trusts. All hosts of the cluster are shown.",
		RunE: func(c *cobra.Command, args []string) error {
			ctx, api, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			r, err := change(ctx, api.vmHosts.AddClusterMembers, &vmhostv1.AddClusterMembersRequest{
				Name: full(vmHosts, args[0]), RequestId: f.id(), ValidateOnly: f.dryRun,
			})
			if err != nil {
				return fail(err, "add the members of the cluster of VM host %s", args[0])
			}
			if f.dryRun {
				fmt.Fprintln(a.stderr, "dry run: the request is valid; nothing was changed")
			}
			if a.forPeople() {
				fmt.Fprintf(a.stderr, "added %s\n", count(len(r.GetAdded()), "host"))
			}
			if err := printList(a, r, r.GetVmHosts(), (*vmhostv1.VmHost).GetName, hostColumns(a.now())); err != nil {
				return err
			}
			if f.dryRun {
				return f.checked()
			}
			return nil
		},
	}
	f.register(c)
	return c
}
