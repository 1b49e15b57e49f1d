package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func newReplica(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "replica", Short: "Controllers whose embedded etcds form a cluster"}
	cmd.AddCommand(newReplicaList(s), newReplicaAdd(s), newReplicaRemove(s))
	return cmd
}

func newReplicaList(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the members of the cluster", Args: cobra.NoArgs,
		RunE: s.connected(func(cmd *cobra.Command, c *client, _ []string) error {
			resp, err := c.cluster.ListClusterMembers(cmd.Context(), &swanherdv1.ListClusterMembersRequest{})
			if err != nil {
				return err
			}
			if s.output != "table" {
				return s.printMessage(resp)
			}
			t := newTable(s.Out, "ID", "MEMBER", "STATE", "ADDRESS")
			for _, m := range resp.GetClusterMembers() {
				state := "counts"
				switch {
				case m.GetMember() == "":
					state = "not started"
				case m.GetLearner():
					state = "catches up"
				}
				t.row(strings.TrimPrefix(m.GetName(), "clusterMembers/"), m.GetMember(), state, m.GetPeerAddress())
			}
			return t.flush()
		}),
	}
}

func newReplicaAdd(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "add NAME https://HOST:PORT", Short: "Let a new member come to the cluster, and print how to start it", Args: cobra.ExactArgs(2),
		Long: `Let a new member come to the cluster, and print how to start it.

To exchange one that is dead for good, remove that one first. The new one begins
with an empty --data-dir, also when it has the name or the address of the one
before. It counts from when it has what the others have.`,
		RunE: s.connected(func(cmd *cobra.Command, c *client, args []string) error {
			made, err := c.cluster.CreateClusterMember(cmd.Context(), &swanherdv1.CreateClusterMemberRequest{
				ClusterMember: &swanherdv1.ClusterMember{PeerAddress: args[1]},
			})
			if err != nil {
				return err
			}
			if s.output != "table" {
				return s.printMessage(made)
			}
			all, err := c.cluster.ListClusterMembers(cmd.Context(), &swanherdv1.ListClusterMembersRequest{})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(s.Out, "--cluster %s --cluster-member %s --cluster-join\n", peersOf(all, made.GetName(), args[0]), args[0])
			return err
		}),
	}
}

// peersOf is --cluster of a member that joins, which is called so.
func peersOf(all *swanherdv1.ListClusterMembersResponse, own, called string) string {
	var peers []string
	for _, m := range all.GetClusterMembers() {
		name := m.GetMember()
		if m.GetName() == own {
			name = called
		}
		peers = append(peers, name+"="+m.GetPeerAddress())
	}
	return strings.Join(peers, ",")
}

func newReplicaRemove(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "remove MEMBER", Short: "Take a member out of the cluster for good, by its name or id", Args: exactly(1, "the member's name or id"),
		RunE: s.connected(func(cmd *cobra.Command, c *client, args []string) error {
			all, err := c.cluster.ListClusterMembers(cmd.Context(), &swanherdv1.ListClusterMembersRequest{})
			if err != nil {
				return err
			}
			for _, m := range all.GetClusterMembers() {
				if args[0] != m.GetMember() && "clusterMembers/"+args[0] != m.GetName() {
					continue
				}
				if _, err := c.cluster.DeleteClusterMember(cmd.Context(), &swanherdv1.DeleteClusterMemberRequest{Name: m.GetName()}); err != nil {
					return err
				}
				_, err = fmt.Fprintf(s.Out, "%s removed\n", m.GetPeerAddress())
				return err
			}
			return usagef("the cluster has no member %q; see `swanherd replica list`", args[0])
		}),
	}
}
