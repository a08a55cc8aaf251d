//! What every store must do, whatever engine is below: each claim is a function over an empty store, and each engine is
//! one more caller of all of them. After every claim the doctor must find nothing.
//!
//! Time is a value that the tests hold and move; nothing here sleeps.

mod api_token;
#[cfg(feature = "planted-bugs")]
mod books;
mod cancel;
mod chain;
mod doctor;
mod drain;
mod edit;
mod forget;
mod heartbeat;
mod history;
mod idempotency;
mod image;
mod key;
mod later;
mod lease;
mod letter;
mod log;
mod node;
mod offer;
mod placement;
mod power;
mod progress;
mod query;
mod reservation;
mod running;
mod schedule;
mod secret;
mod servers;
mod settle;
mod snapshot;
mod stats;
mod submit;
mod sweep;
mod task_log;
mod tenant;
mod turn;
mod unassigned;
mod waiting;
mod world;

/// Calls every claim for one engine.
macro_rules! conformance {
    ($engine:ident, $open:expr, $($module:ident: $($claim:ident)*;)*) => {
        mod $engine {
            $(mod $module {
                $(
                    #[tokio::test]
                    async fn $claim() {
                        let mut world = crate::world::World::open($open);
                        crate::$module::$claim(&mut world).await;
                        world.end().await;
                    }
                )*
            })*
        }
    };
}

/// Every claim there is.
macro_rules! every_claim {
    ($engine:ident, $open:expr) => {
        conformance! {
            $engine, $open,
            submit:
                a_task_its_allocation_its_audit_entry_and_its_event_are_written_together
                a_vm_is_charged_and_placed_with_its_task
                a_name_that_is_taken_is_refused_also_within_one_batch
                a_deleted_vm_gives_its_name_back
                a_name_given_back_within_a_batch_is_free
                a_name_that_a_rename_gives_back_within_a_batch_is_free
                two_tenants_may_use_one_name
                quota_counts_what_earlier_items_of_the_batch_took
                an_unknown_tenant_is_not_found
                room_that_an_earlier_item_took_is_gone
                a_refusal_for_want_of_room_explains_every_node
                a_named_node_is_the_only_one_that_will_do
                a_refused_item_does_not_spoil_its_neighbours
                a_dry_run_answers_the_same_and_writes_nothing
                another_tenants_vm_is_not_found
                a_program_cannot_run_in_a_vm_that_is_not_running
                a_kind_that_makes_a_vm_needs_one_described
                a_poisoned_item_fails_alone
                many_callers_at_once_are_all_answered
                a_call_that_is_dropped_leaves_all_or_nothing;
            reservation:
                what_is_held_by_hand_counts_and_is_given_back
                a_reservation_is_made_once_under_a_key
                a_reservation_released_twice_is_given_back_once
                a_reservation_ends_by_itself_and_the_log_says_so
                a_success_that_comes_after_every_deadline_is_charged
                a_book_that_was_changed_by_hand_is_counted_anew
                a_nodes_book_that_was_changed_by_hand_is_counted_anew;
            running:
                a_machine_is_charged_as_running_while_it_runs_or_is_about_to
                a_start_over_the_limit_is_refused_also_in_a_dry_run_and_within_a_batch
                a_machine_whose_end_was_seen_is_given_back_and_one_of_which_nobody_knows_is_not
                a_task_for_later_is_charged_when_its_time_comes;
            tenant:
                a_tenant_is_made_once_under_a_key
                a_dry_run_makes_and_changes_nothing
                a_tenant_is_changed_under_its_generation
                tenants_are_listed_newest_first
                a_tenant_is_deleted_once_it_has_nothing
                the_default_tenant_stays;
            idempotency:
                the_same_key_gets_the_first_answer
                the_same_key_with_another_body_is_refused
                the_same_key_twice_in_one_batch_is_one_task
                a_key_belongs_to_its_caller_and_route
                a_refusal_does_not_use_a_key_up
                a_key_is_kept_for_a_day_and_until_its_task_ends;
            forget:
                a_task_goes_a_month_after_its_end_with_all_that_hangs_on_it
                what_has_not_ended_stays_however_old_it_is
                a_dead_letter_stays_until_somebody_has_decided
                a_walk_goes_piece_by_piece_while_others_write_and_read
                a_deleted_machine_goes_after_its_tasks_and_its_snapshots
                a_machine_that_is_not_deleted_stays_with_what_is_charged_for_it;
            lease:
                tasks_are_leased_in_the_order_of_their_submission
                a_node_gets_its_own_tasks_only
                a_claim_gets_no_more_than_it_asks_for
                two_claims_of_one_node_share_what_there_is
                nodes_that_have_something_to_fetch_are_found_one_after_another
                another_enrolment_is_refused
                an_unknown_node_is_refused
                a_node_that_is_not_approved_gets_nothing
                what_is_leased_is_not_leased_twice
                a_resync_sends_what_the_agent_never_saw_under_the_same_fence
                a_resync_under_a_new_enrolment_gets_nothing_of_the_old_one
                a_lease_says_the_vms_epoch_and_the_deadline
                what_can_no_longer_be_done_is_refused_when_its_turn_comes
                what_is_about_an_unknown_vm_waits_until_it_is_known;
            progress:
                the_first_report_says_when_it_began
                progress_renews_the_lease
                progress_under_a_stale_fence_is_refused
                progress_of_another_node_is_refused
                progress_of_a_task_that_ended_is_refused
                progress_learns_of_a_cancel
                a_report_that_says_nothing_new_writes_no_event;
            heartbeat:
                a_heartbeat_renews_leases
                a_heartbeat_learns_what_to_abort_and_what_is_over
                a_heartbeat_that_says_nothing_new_writes_no_entry
                facts_are_kept
                a_heartbeat_of_another_enrolment_is_refused
                an_observed_crash_is_written_down
                an_inventory_older_than_a_change_does_not_undo_it
                a_vm_that_a_full_inventory_lacks_is_missing_and_no_longer_charged
                a_light_inventory_misses_nothing
                a_vm_whose_making_failed_and_that_is_seen_is_in_use
                a_missing_vm_that_is_started_is_charged_again
                a_missing_vm_that_is_seen_again_is_charged_again
                a_vm_in_error_that_is_gone_is_no_longer_charged
                a_vm_whose_task_is_under_way_is_left_alone
                what_an_agent_refused_is_in_the_audit_one_line_for_each_reason
                what_an_agent_refused_is_written_down_once_however_often_it_says_so
                an_orphan_is_answered_each_time_and_logged_once
                a_vm_that_was_just_deleted_is_no_orphan
                a_deleted_vm_that_is_still_there_is_an_orphan
                what_was_unknown_is_known_again_when_its_node_returns
                an_unknown_vm_is_not_what_it_was_in_another_life
                a_state_that_no_node_can_see_changes_nothing;
            schedule:
                the_higher_priority_is_leased_first_and_of_equals_the_older
                a_priority_does_not_change_the_order_on_one_vm
                a_task_is_not_leased_before_its_time
                a_task_that_waits_for_its_time_can_be_cancelled_and_is_listed
                a_time_in_the_queue_and_a_time_to_the_end_may_be_its_own
                retries_may_be_its_own
                a_claim_gets_no_more_of_a_class_than_has_free_slots
                long_programs_keep_nothing_short_from_its_slots
                what_is_sent_again_takes_the_slots_of_its_class
                what_is_to_be_undone_needs_no_slot
                a_paused_node_gets_nothing_but_what_is_to_be_undone
                the_time_in_the_queue_goes_on_while_a_node_is_paused
                a_paused_node_is_taken_only_when_no_other_will_do
                pausing_an_unknown_node_is_refused;
            later:
                a_change_for_later_holds_nobody_up
                a_machine_whose_change_is_for_later_is_observed_and_restarted
                what_is_for_later_is_judged_when_its_time_comes
                a_deletion_for_later_stops_nothing_until_then
                a_deletion_for_later_ends_nothing_that_became_protected
                an_edit_for_later_changes_nothing_until_then
                an_edit_of_the_record_for_later_is_a_task
                an_edit_for_later_that_may_not_be_then_fails_with_the_refusals_code
                a_name_for_later_is_taken_at_its_time
                a_name_for_later_may_be_the_one_that_another_gives_back_just_then
                one_that_the_store_fails_on_fails_alone
                one_whose_time_came_while_the_server_was_away_has_its_whole_time_in_the_queue
                what_was_queued_meanwhile_comes_before_it
                its_turn_comes_also_while_no_node_asks_for_work
                a_machine_made_later_is_named_and_held_at_once;
            letter:
                what_was_given_up_is_a_dead_letter_and_what_failed_for_good_is_none
                a_dead_letter_that_is_done_again_is_off_the_list
                of_two_who_do_a_letter_again_the_first_does_and_the_other_is_told
                a_purged_letter_is_off_the_list_and_its_history_stays
                a_batch_under_a_key_is_answered_again_item_by_item
                a_batch_of_another_body_under_a_key_is_refused_whole;
            task_log:
                lines_are_kept_in_their_order_with_their_attempt
                lines_that_come_again_are_kept_once
                lines_alone_write_no_event_and_wake_followers
                the_last_lines_come_with_the_result
                a_retry_says_why_and_marks_the_next_attempt
                lines_under_a_stale_fence_are_not_kept
                only_the_last_lines_of_a_task_are_kept
                only_so_many_bytes_of_a_task_are_kept
                a_task_that_goes_well_without_a_word_has_no_lines;
            snapshot:
                one_is_held_while_it_is_made_and_charged_for_what_was_written
                a_name_is_unique_among_a_machines_also_within_one_batch
                quota_room_and_number_are_limited
                one_for_later_is_of_the_machine_as_it_is_then
                one_for_later_that_may_not_be_then_fails_and_gives_its_name_back
                a_stopped_machine_has_no_memory_to_keep
                one_that_could_not_be_made_leaves_nothing_or_an_error
                one_that_is_cancelled_before_its_lease_leaves_nothing
                a_restore_needs_one_that_is_ready_and_of_this_machine
                a_restore_waits_for_the_snapshot_before_it_and_is_refused_when_that_failed
                a_deletion_gives_back_what_was_charged_and_is_not_needed_twice
                a_deletion_under_way_is_named_to_whoever_asks_for_another
                deletions_that_wait_keep_nobody_from_the_slots_of_their_class
                a_deletion_that_did_nothing_leaves_it_as_it_was
                what_a_deletion_leaves_to_another_is_charged_to_that_one
                a_deletion_that_left_its_layer_stays_charged_until_it_is_deleted_again
                a_deletion_that_left_its_layer_is_tried_again_and_goes_on_from_there
                a_deletion_that_waits_to_go_on_is_stopped_by_its_node_only
                a_deletion_leaves_its_turn_to_whatever_else_is_asked_of_the_machine
                they_go_with_their_machine
                one_that_its_node_lacks_is_in_error_and_no_longer_charged
                one_that_is_not_ours_is_named_as_an_orphan;
            stats:
                what_waits_is_told_with_what_it_waits_for
                what_happened_is_told_by_kind_and_by_node
                a_tenant_is_told_its_own
                what_was_long_ago_is_told_of_all_time_only
                what_happened_before_the_clock_stepped_back_is_told_of_all_time_only
                what_is_refused_or_only_tried_is_not_counted
                an_attempt_that_lapsed_and_then_fails_is_followed_by_one_other
                times_are_told_as_they_were;
            settle:
                a_success_is_written_down_with_all_that_follows
                what_proves_a_result_is_kept_with_its_task_and_its_certificate_beside_it
                a_repeat_of_a_result_changes_nothing
                a_repeat_within_one_batch_changes_nothing
                a_repeat_of_a_failure_that_is_retried_changes_nothing
                a_stale_fence_changes_nothing
                a_result_for_an_unknown_task_is_unknown
                a_result_of_another_enrolment_is_refused
                a_result_of_another_node_is_stale
                a_retryable_failure_comes_again_after_a_pause
                the_last_attempt_fails_for_good
                a_failure_that_left_something_keeps_its_allocation
                a_create_that_was_undone_gives_everything_back
                a_create_that_left_something_is_in_error_and_charged
                a_vm_is_charged_what_its_node_says
                a_charge_that_makes_no_sense_is_not_booked
                a_deleted_vm_is_no_longer_charged
                a_result_after_the_lapse_still_counts
                results_of_mixed_kinds_are_answered_one_by_one
                an_output_beyond_measure_is_cut
                an_output_that_is_no_object_leaves_the_task_readable
                times_from_another_clock_are_held_within_reason;
            power:
                a_machine_that_is_switched_keeps_its_charge
                what_is_so_already_needs_no_node
                what_a_state_does_not_allow_is_refused_with_what_to_do
                a_guest_that_does_not_answer_after_a_start_runs_and_is_not_ready
                a_stop_that_did_not_come_to_its_end_leaves_the_machine_to_its_node
                a_machine_that_crashed_is_started_by_an_ordinary_task_after_a_pause
                a_machine_that_cannot_be_kept_up_is_tried_more_and_more_seldom_and_so_often_in_an_hour
                what_somebody_stopped_stays_stopped
                a_machine_on_a_node_that_does_not_listen_is_not_started_until_it_does
                each_policy_starts_what_it_says
                a_policy_that_changes_changes_what_is_to_come;
            secret:
                a_text_is_given_to_the_holder_of_the_lease_under_its_fence_only
                a_text_goes_with_its_tasks_success
                a_text_stays_a_week_after_a_failure_for_whoever_asks_again
                a_text_of_a_task_that_is_refused_or_only_tried_is_not_kept;
            turn:
                a_change_waits_for_the_one_before_it
                a_program_waits_for_the_create_and_then_runs
                programs_run_beside_each_other
                a_delete_ends_a_create_that_nobody_leased
                a_delete_aborts_a_create_under_way
                a_delete_aborts_programs
                a_second_delete_finds_nothing_left_to_do
                a_delete_whose_vm_vanished_meanwhile_is_moot
                what_waits_says_for_what
                a_turn_is_held_through_backoff;
            edit:
                a_record_is_changed_with_its_event_and_audit_entry
                an_edit_of_an_older_generation_is_refused
                another_tenants_or_a_deleted_machine_is_not_edited
                a_protected_machine_is_not_deleted_also_within_a_batch
                a_machine_made_protected_and_for_a_time_is_both
                a_machine_whose_time_is_over_is_deleted_by_the_system
                a_time_that_was_extended_or_taken_back_does_not_end_a_machine
                a_protected_machine_outlives_its_time_until_it_is_unprotected
                a_deletion_that_failed_is_filed_again_after_a_pause
                a_machine_whose_time_is_over_on_a_node_that_does_not_listen_waits_for_it
                an_edit_of_the_host_is_asked_for_charged_and_filed_together
                what_waits_for_the_next_start_is_charged_as_the_larger_until_it_is_seen
                only_growth_is_checked_against_quota_and_room
                an_edit_that_was_undone_is_taken_back
                an_edit_whose_end_is_not_known_stays_charged_for_the_larger
                one_edit_runs_at_a_time_and_a_repeat_gets_the_first_answer
                an_edit_of_the_record_under_a_key_is_done_once
                a_deletion_of_an_older_generation_is_refused
                a_port_that_another_machine_has_is_refused_with_its_name
                a_port_that_the_node_chose_is_kept
                an_edit_behind_the_create_stays_charged_for_what_it_asks
                an_edit_behind_the_create_that_is_undone_leaves_what_was_made
                a_name_changes_with_the_submission_and_the_old_one_is_free
                a_node_that_takes_nothing_new_still_looks_at_what_it_has;
            cancel:
                what_was_never_leased_ends_at_once
                what_is_leased_waits_for_its_nodes_word
                a_success_that_arrives_first_wins
                an_ended_task_cannot_be_cancelled
                another_tenants_task_is_not_found
                cancelling_twice_is_cancelling_once
                a_cancelled_task_may_be_cancelled_again
                an_aborting_task_is_leased_to_be_undone
                force_ends_only_what_is_aborting_and_keeps_the_allocation;
            sweep:
                a_lapsed_lease_comes_again_after_a_pause
                leases_are_not_judged_before_a_full_lease_of_service
                the_last_lapse_leads_to_aborting
                what_nobody_leases_in_time_fails
                what_runs_too_long_is_aborted
                a_retry_has_its_own_time_in_the_queue
                silence_makes_a_node_stale_and_then_lost
                a_lost_node_makes_its_vms_unknown
                at_most_one_of_few_nodes_is_lost_per_lease_period
                silence_counts_from_the_stores_own_start
                a_suspended_process_burns_no_attempt_and_loses_no_node
                a_clock_that_steps_back_keeps_no_lease_and_no_start_waiting
                a_clock_that_steps_back_keeps_no_backoff_waiting
                what_could_be_leased_before_the_clock_stepped_back_still_can_be
                service_begins_anew_when_a_server_begins_to_serve
                a_pass_says_when_there_is_more;
            node:
                a_token_is_good_once
                a_token_expires
                a_token_for_another_name_is_refused
                only_a_token_with_its_name_takes_a_nodes_place
                who_spent_a_token_gets_the_same_answer_once_more
                a_renewal_is_in_the_audit_and_a_node_that_is_gone_renews_nothing
                a_node_that_joins_again_keeps_its_id
                a_node_waits_for_approval
                a_cordoned_node_gets_tasks_but_no_machines
                nothing_is_taken_from_a_revoked_node_until_it_joins_anew
                an_event_that_does_not_apply_is_refused
                a_join_token_is_forgotten_a_day_after_its_time
                after_a_restore_a_node_gets_tasks_once_it_has_said_what_it_has
                after_a_restore_nothing_is_undone_because_time_went_by;
            unassigned:
                what_no_record_knows_is_listed_and_becomes_a_tenants
                a_claim_that_may_not_be_is_refused;
            waiting:
                a_machine_that_waits_for_room_has_its_quota_and_gets_a_node_when_one_will_do
                room_comes_by_an_uncordon_or_a_node_that_joins_too
                what_waits_is_placed_by_priority_and_then_in_its_order
                nobody_waits_for_ever_behind_smaller_ones
                what_waits_goes_where_its_port_is_free_and_waits_while_it_is_nowhere
                who_waits_too_long_fails_with_what_each_node_lacked
                what_waits_is_withdrawn_at_once_by_a_cancel_or_a_deletion
                a_dry_run_says_that_it_would_wait_and_why
                a_machine_whose_time_is_over_waits_no_longer
                after_a_restore_what_waits_goes_where_it_was_made
                after_a_restore_what_waits_is_placed_once_every_node_was_heard;
            drain:
                a_node_is_drained_when_the_last_that_is_there_is_gone
                what_nobody_has_begun_goes_elsewhere_from_a_node_that_is_drained
                what_found_no_other_node_at_first_goes_once_there_is_one
                a_node_is_removed_once_it_is_drained_and_may_join_anew
                a_node_with_something_left_is_not_removed
                a_host_that_is_gone_for_good_goes_with_all_that_was_there;
            placement:
                a_machine_goes_where_the_labels_are_that_it_asks_for
                a_named_node_is_taken_as_it_is_or_explained_alone
                a_group_shares_no_node_whether_it_is_there_under_way_or_in_the_same_batch
                a_machine_goes_to_the_next_node_that_has_its_port_free
                a_dry_run_says_which_node_and_what_speaks_for_and_against_each
                how_much_may_be_promised_is_a_nodes_own_where_an_operator_says_so
                an_edit_of_a_node_is_written_once_and_only_over_what_was_read
                a_thousand_creates_at_once_oversubscribe_no_node;
            offer:
                what_is_offered_stays_queued_until_its_agent_begins
                what_the_broker_has_is_never_offered_again
                a_node_whose_tasks_are_offered_is_handed_none
                what_waits_at_a_node_is_offered_once_its_road_changes
                a_second_beginning_gets_the_same_lease_and_another_enrolment_none
                a_cancelled_offer_ends_at_once_and_its_agent_is_told_so
                an_offer_that_nobody_takes_in_time_ends_and_cannot_be_begun
                another_attempt_is_another_offer_and_the_old_one_is_over
                what_lapsed_is_offered_under_the_next_fence
                what_is_to_be_undone_is_offered_as_that
                only_one_change_of_a_machine_is_offered_at_a_time
                a_paused_node_is_offered_nothing_and_begins_nothing
                after_a_restore_what_was_offered_before_is_over_and_offered_anew
                an_offer_that_is_rejected_ends_its_task_with_the_reason
                an_offer_to_undo_that_is_rejected_is_made_again
                a_plain_task_has_one_attempt_which_begins_as_it_is_sent
                a_plain_failure_keeps_its_room_unless_nothing_is_left
                a_plain_result_in_anothers_name_changes_nothing
                only_a_plain_nodes_own_user_speaks_for_it
                what_a_plain_consumer_rejects_was_not_done_and_what_it_died_of_is_unknown
                a_plain_task_that_is_cancelled_ends_by_evidence_only
                a_plain_nodes_name_is_its_own;
            key:
                one_key_signs_and_follows_another
                a_revoked_key_that_signed_is_followed_at_once
                after_a_restore_no_key_of_before_signs_and_another_takes_its_place
                every_change_of_a_key_is_in_the_audit_without_its_private_part
                no_more_keys_are_believed_than_agents_hold
                an_owner_has_one_key_whoever_makes_it_first
                all_keys_are_wrapped_anew_or_none_and_nothing_under_the_master_key_of_before;
            log:
                entries_are_numbered_without_gaps
                filters_select
                any_text_survives
                fractions_survive
                every_step_wakes_those_who_wait
                what_was_answered_is_there_after_reopening;
            chain:
                an_export_verifies_and_shows_no_more_than_the_audit
                each_entry_of_a_batch_that_was_edited_is_named_whatever_was_edited
                hashes_that_were_changed_are_told_from_entries_that_were
                an_entry_that_was_removed_is_named
                entries_that_were_swapped_are_named
                an_entry_that_was_added_and_the_head_moved_for_it_is_named
                a_chain_that_was_cut_off_behind_what_was_signed_is_named
                a_chain_that_was_written_anew_is_named_by_what_was_signed
                a_checkpoint_is_kept_where_the_chain_stands_there_and_nowhere_else
                a_chain_goes_on_from_where_it_stood_unless_it_was_written_anew
                of_old_checkpoints_the_last_of_each_day_stays;
            doctor:
                an_entry_that_was_edited_is_found
                an_entry_that_was_removed_is_found
                an_entry_that_was_added_is_found
                a_link_that_was_removed_is_found
                a_head_that_was_moved_is_found
                a_book_that_was_edited_is_found
                an_allocation_without_an_owner_is_found
                a_running_task_without_a_lease_is_found;
            image:
                an_image_is_known_by_its_name_and_its_digest
                a_name_stands_for_one_image_of_its_tenant
                a_shipped_image_takes_its_name_only_from_one_that_was_shipped
                an_image_of_machines_is_not_deleted
                of_a_deletion_and_a_create_whichever_comes_second_is_refused
                a_create_that_waits_keeps_the_image_that_its_name_stood_for
                an_import_asked_for_twice_under_a_key_is_begun_once
                an_imports_key_is_kept_for_a_day_and_until_it_ends
                what_images_share_counts_once
                an_import_goes_on_until_it_ends_once
                an_import_is_told_to_stop
                a_tenant_has_few_imports_under_way_and_not_all_that_ever_were
                an_import_of_what_is_shipped_takes_its_name_only_from_what_was_shipped
                imports_of_an_earlier_life_are_over_and_do_not_count
                an_import_whose_server_is_silent_fails;
            api_token:
                a_token_stands_for_its_caller
                a_revoked_token_stays_revoked_and_takes_what_it_made_where_that_is_asked
                tokens_are_listed_newest_first_by_whose_they_are
                what_is_no_longer_good_makes_no_token
                old_ones_are_forgotten_and_nobody_has_too_many
                one_that_made_others_is_kept_as_long_as_they_are
                a_service_account_goes_with_its_tokens
                who_was_let_in_and_who_was_not_is_in_the_audit;
            query:
                tasks_are_listed_newest_first_by_every_filter
                vms_are_listed_without_the_deleted
                limits_and_books_are_told
                gauges_count;
        }
    };
}

every_claim!(sqlite_threads, crate::world::Sqlite::threads());
every_claim!(sqlite_inline, crate::world::Sqlite::inline());
every_claim!(postgres, crate::world::Postgres::new());
