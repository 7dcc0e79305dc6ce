use super::*;

/// available, shared, idle
fn state(blocks: &Blocks) -> (usize, usize, usize) {
    let counts = blocks.counts();
    (counts.available(), counts.shared, counts.idle)
}

/// A lease that computed and published all but the last of `tokens`.
fn computed(blocks: &Blocks, tokens: &[u32]) -> Lease {
    let mut lease = blocks.lease();
    lease.reuse(tokens);
    let rest = tokens.len() - 1 - lease.len();
    lease.grow(rest).unwrap();
    lease.commit(rest);
    lease.publish(tokens);
    lease
}

fn text(len: usize, seed: u32) -> Vec<u32> {
    (0..len as u32).map(|i| i * 31 + seed).collect()
}

#[test]
fn blocks_come_back_on_drop_and_truncate() {
    let blocks = Blocks::new(3);
    let mut lease = blocks.lease();
    lease.grow(2 * BLOCK + 1).unwrap();
    assert_eq!(
        (lease.blocks(), state(&blocks)),
        (&[0, 1, 2][..], (0, 0, 0))
    );
    lease.commit(2 * BLOCK + 1);
    lease.truncate(1);
    assert_eq!((lease.blocks().len(), state(&blocks)), (1, (2, 0, 0)));
    drop(lease);
    assert_eq!(state(&blocks), (3, 0, 0));
}

#[test]
fn full_blocks_leave_the_lease_alone() {
    let blocks = Blocks::new(1);
    let mut lease = blocks.lease();
    assert!(matches!(
        lease.grow(BLOCK + 1),
        Err(ModelError::CacheFull {
            needed: 2,
            free: 1,
            ..
        })
    ));
    assert_eq!((lease.capacity(), state(&blocks)), (0, (1, 0, 0)));
}

#[test]
fn a_text_that_begins_alike_shares_full_blocks() {
    let blocks = Blocks::new(8);
    let tokens = text(3 * BLOCK, 0);
    assert_eq!(blocks.needed_for(&tokens), 4);
    let first = computed(&blocks, &tokens);
    let second = computed(&blocks, &[&tokens[..2 * BLOCK], &[7; 5]].concat());
    assert_eq!(first.blocks()[..2], second.blocks()[..2]);
    assert_ne!(first.blocks()[2], second.blocks()[2]);
    assert_eq!(state(&blocks), (4, 2, 0));
    // The last token is never among the reused ones.
    assert_eq!(blocks.needed_for(&tokens), 2);
    assert_eq!(blocks.lease().reuse(&tokens[..2 * BLOCK]), BLOCK);
    // The same tokens elsewhere are not the same content.
    assert_eq!(blocks.lease().reuse(&tokens[BLOCK..]), 0);
    drop((first, second));
    assert_eq!(state(&blocks), (8, 0, 2));
    assert_eq!(blocks.lease().reuse(&tokens), 2 * BLOCK);
}

#[test]
fn two_who_computed_the_same_keep_one_copy() {
    let blocks = Blocks::new(8);
    let tokens = text(2 * BLOCK + 1, 0);
    let fill = || {
        let mut lease = blocks.lease();
        lease.grow(2 * BLOCK).unwrap();
        lease.commit(2 * BLOCK);
        lease
    };
    let (mut first, mut second) = (fill(), fill());
    first.publish(&tokens);
    assert_eq!(state(&blocks), (4, 0, 0));
    second.publish(&tokens);
    assert_eq!(first.blocks(), second.blocks());
    assert_eq!(state(&blocks), (6, 2, 0));
}

#[test]
fn idle_blocks_are_taken_back_the_longest_unused_first() {
    let blocks = Blocks::new(4);
    let (old, new) = (text(2 * BLOCK + 1, 1), text(2 * BLOCK + 1, 2));
    drop(computed(&blocks, &old));
    drop(computed(&blocks, &new));
    assert_eq!(state(&blocks), (4, 0, 4));
    // Used again, so the other is older now.
    assert_eq!(blocks.lease().reuse(&old), 2 * BLOCK);
    let mut lease = blocks.lease();
    lease.grow(1).unwrap();
    // The end of a text goes before its beginning.
    assert_eq!(blocks.lease().reuse(&new), BLOCK);
    lease.grow(2 * BLOCK).unwrap();
    assert_eq!(blocks.lease().reuse(&old), BLOCK);
    assert_eq!(blocks.lease().reuse(&new), BLOCK);
}

#[test]
#[should_panic(expected = "published")]
fn a_published_block_is_never_cut() {
    let blocks = Blocks::new(4);
    computed(&blocks, &text(2 * BLOCK + 1, 0)).truncate(BLOCK + 1);
}
