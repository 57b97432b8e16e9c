"""The central claims of the papers, as comparisons of rows that are measured here.

What a paper says is in our words, with where it was read: no paper was read as a whole, and a claim
that was seen at second hand says so.
"""

from dataclasses import dataclass

from benchmarks.recipes import loss_ensemble, potential_field
from benchmarks.recipes.tables import MEMBERS, TABLES


@dataclass(frozen=True)
class Claim:
    """That each of some rows has a higher Recall@1 than every one of others.

    Args:
        title: unique, and a clause that a verdict can follow.
        text: what the paper claims, in whole sentences.
        source: where that was read, and how far it can be trusted.
        better: recipes of which it is said.
        worse: recipes that each of them is compared with.
        datasets: on each of which it is judged, by the rows that its table has.
        clean: data set without the label noise: no higher Recall@1 is claimed, but a smaller fall
            from there. None: there is no such comparison.
        stated: whether anything read says that the paper claims it; a question of ours, or what was
            inferred, is tested like a claim and counts neither for nor against the paper.
    """

    title: str
    text: str
    source: str
    better: tuple[str, ...]
    worse: tuple[str, ...]
    datasets: tuple[str, ...]
    clean: str | None = None
    stated: bool = True

    def pairs(self, dataset: str) -> list[tuple[str, str]]:
        """Better and worse of each comparison on a data set."""
        rows = TABLES[dataset].recipes
        return [(a, b) for a in self.better for b in self.worse if a in rows and b in rows]


@dataclass(frozen=True)
class Paper:
    """Claims of one paper.

    Args:
        title: of its section.
        cited: authors, title, place and link.
        classes: of this package that are from it.
        claims: in the order of the page.
        remark: what its tests here leave out.
    """

    title: str
    cited: str
    classes: tuple[str, ...]
    claims: tuple[Claim, ...]
    remark: str = ""


PFML = potential_field.RECIPES[0].name
OTHERS_UNDER_NOISE = ("proxy_anchor", "smoothed_proxy_nca", "multi_similarity", "triplet_semihard")
TABLE_2 = "Table 2 of the paper, seen on the authors' slides and project page"
FIELD = Paper(
    "Potential field",
    "Bhatnagar and Ahuja, Potential Field Based Deep Metric Learning, CVPR 2025 "
    "([arXiv](https://arxiv.org/abs/2405.18560))",
    ("PotentialFieldLoss",),
    (
        Claim(
            "Potential field retrieves better than other losses",
            "On the same network the potential field has a higher Recall@1 than Proxy Anchor, "
            "normalized softmax and multi-similarity: 73.4 on CUB, where the others have 69.7, "
            "61.3 and 65.7, and 92.7 on Cars196 (87.7, 84.2, 84.1).",
            "Table 1 of the paper, seen on the authors' project page; multi-similarity is quoted "
            "there for another network",
            better=(PFML, "pfml", "pfml_2"),
            worse=("proxy_anchor", "normalized_softmax", "multi_similarity"),
            datasets=(
                "omniglot",
                "clinc150_tfidf",
                "clinc150",
                "banking77_tfidf",
                "banking77",
                "cub",
                "cars196",
                "sop",
            ),
        ),
        Claim(
            "Under 20 % label noise potential field is ahead",
            "With one in five training labels wrong it has a higher Recall@1 than Proxy Anchor, "
            "Proxy-NCA, multi-similarity and triplet loss: 66.7 on CUB, where the best of these "
            "has 60.7.",
            TABLE_2,
            better=(PFML,),
            worse=OTHERS_UNDER_NOISE,
            datasets=("clinc150_tfidf_noise",),
        ),
        Claim(
            "Label noise of 20 % takes less from potential field",
            "Its pull fades with distance, so that wrong labels, which are mostly far, do little: "
            "from clean to noisy labels Recall@1 falls by 6.7 points on CUB and 8.2 on Cars196, "
            "that of Proxy Anchor by 9.0 and 10.8.",
            f"{TABLE_2}, less the Recall@1 of Table 1; the falls are our subtraction",
            better=(PFML,),
            worse=OTHERS_UNDER_NOISE,
            datasets=("clinc150_tfidf_noise",),
            clean="clinc150_tfidf",
        ),
        Claim(
            "A potential that decays fast is better than one that decays slowly",
            "Recall@1 rises with the exponent of decay up to 3 and stays there: 68.2, 71.1, 72.7 "
            "and 73.4 on CUB for the exponents 0, 1, 2 and 3. 0.5 is ours.",
            "ablation figure of the authors, read off its curves to 0.1",
            better=(PFML,),
            worse=tuple(
                recipe.name
                for recipe in potential_field.ALPHA_SWEEP
                if recipe.loss_args["alpha"] < 3
            ),
            datasets=("clinc150_tfidf_alpha",),
        ),
        Claim(
            "15 proxies a class are better than fewer",
            "Recall@1 rises with the number of proxies up to 15 and stays there: 67.2, 70.8, 72.5 "
            "and 73.4 on CUB for none, 5, 10 and 15. 1 and 4 are ours.",
            "ablation figure of the authors, read off its curves to 0.1",
            better=(PFML,),
            worse=tuple(f"potential_field_{number}" for number in (0, 1, 4, 5, 10)),
            datasets=("clinc150_tfidf_proxies", "omniglot"),
        ),
    ),
)
IBC = Paper(
    "Intra-batch connections",
    "Seidenschwarz, Elezi and Leal-Taixé, Learning Intra-Batch Connections for Deep Metric "
    "Learning, ICML 2021 ([arXiv](https://arxiv.org/abs/2102.07753))",
    ("IntraBatchConnectionsLoss",),
    (
        Claim(
            "The network of messages is better than its auxiliary classifier alone",
            "Training a network that refines the embeddings of a batch from one another makes "
            "better embeddings than classification of each image by itself.",
            "summaries by readers of the paper; the numbers of its ablation were not seen",
            better=("ibc",),
            worse=("ibc_auxiliary",),
            datasets=("omniglot_validation",),
        ),
        Claim(
            "It is the messages that help",
            "What helps is that images of a batch exchange messages, and not that a network "
            "stands behind the embedding.",
            "summaries by readers of the paper; later runs by a project of the authors' "
            "university, of one seed mostly, show no difference",
            better=("ibc",),
            worse=("ibc_no_attention",),
            datasets=("omniglot_validation",),
        ),
        Claim(
            "The auxiliary classifier improves the embeddings of the network",
            "A classifier on the embeddings themselves, added to the network's, makes better "
            "embeddings than the network's alone.",
            "summaries by readers of the paper; the numbers of its ablation were not seen",
            better=("ibc",),
            worse=("ibc_network_only",),
            datasets=("omniglot_validation",),
        ),
        Claim(
            "Intra-batch connections retrieve better than Proxy Anchor and normalized softmax",
            "Recall@1 of 70.3 on CUB and 88.1 on Cars196, where Proxy Anchor has 69.7 and 87.7, "
            "and normalized softmax 61.3 and 84.2.",
            "README of the released code; the others as later papers quote them",
            better=("ibc",),
            worse=("proxy_anchor", "normalized_softmax"),
            datasets=("omniglot_validation", "omniglot"),
        ),
    ),
)
ENSEMBLE_SETS = ("omniglot_ensemble", "flowers", "pets")
ABSTRACT = "abstract of the journal version; absolute values were not seen"
ENSEMBLE = Paper(
    "Ensemble of losses",
    "Zabihzadeh et al., Ensemble of Loss Functions to Improve Generalizability of Deep Metric "
    "Learning Methods, 2023 ([arXiv](https://arxiv.org/abs/2107.01130))",
    ("WeightedLossEnsemble",),
    (
        Claim(
            "An ensemble with a head for each loss beats every member",
            "Its Recall@1 on Cars196 is 10.37 points above that of the best single loss.",
            ABSTRACT,
            better=(loss_ensemble.HEADS.name,),
            worse=MEMBERS,
            datasets=ENSEMBLE_SETS,
        ),
        Claim(
            "An ensemble compressed to the width of one loss beats every member",
            "Its Recall@1 on Cars196 is 8.28 points above that of the best single loss.",
            ABSTRACT,
            better=(loss_ensemble.COMPRESSED.name,),
            worse=MEMBERS,
            datasets=ENSEMBLE_SETS,
        ),
        Claim(
            "An ensemble on one embedding beats every member",
            "The variant without heads, with learned weights, is better than each of its losses "
            "too: with weights on a simplex, the default here, and with the published squares.",
            "released code; what the paper says of this variant was not seen",
            better=(loss_ensemble.SIMPLEX.name, loss_ensemble.SQUARED.name),
            worse=MEMBERS,
            datasets=ENSEMBLE_SETS,
            stated=False,
        ),
    ),
)
COLLAGES = ("omniglot_collage", "cifar_collage")
TOKENS = ("clinc150_text", "banking77_text")
POOLING = Paper(
    "Generalized sum pooling",
    "Gürbüz, Şener and Alatan, Generalized Sum Pooling for Metric Learning, ICCV 2023 "
    "([arXiv](https://arxiv.org/abs/2308.09228))",
    ("GeneralizedSumPooling", "ZeroShotPredictionLoss"),
    (
        Claim(
            "Generalized sum pooling beats average pooling where most of an image is nuisance",
            "Weights that leave out the nuisance make better embeddings than the plain average.",
            "abstract and public summaries; no figure of the paper could be read, and its toy "
            "collages are known from the released code",
            better=("gsp",),
            worse=("average_pooling",),
            datasets=COLLAGES,
        ),
        Claim(
            "The zero-shot loss adds to generalized sum pooling",
            "Prediction of class embeddings for classes that a regressor has not seen makes the "
            "attributes, and with them the embeddings, better.",
            "the released commands train with it; the paper's comparison was not seen",
            better=("gsp_zero_shot",),
            worse=("gsp",),
            datasets=(*COLLAGES, *TOKENS),
        ),
        Claim(
            "Generalized sum pooling beats maximum and generalized mean",
            "The released code has these poolings beside it, presumably to be beaten.",
            "inferred from the released code; no sentence that says so was seen",
            better=("gsp",),
            worse=("max_pooling", "gem_pooling"),
            datasets=COLLAGES,
            stated=False,
        ),
        Claim(
            "Generalized sum pooling of the tokens of a text beats their mean",
            "Whether weights that leave out nuisance help among the tokens of a sentence too.",
            "ours, no claim of the paper, which is about images",
            better=("gsp",),
            worse=("average_pooling",),
            datasets=TOKENS,
            stated=False,
        ),
    ),
    "The published loss as a whole, with a memory, is another loss than those of the other "
    "poolings: no claim is judged by it.",
)
LIFTED = Paper(
    "Lifted structure",
    "Oh Song, Xiang, Jegelka and Savarese, Deep Metric Learning via Lifted Structured Feature "
    "Embedding, CVPR 2016 ([arXiv](https://arxiv.org/abs/1511.06452))",
    ("LiftedStructureLoss",),
    (
        Claim(
            "Lifted structure retrieves better than contrastive and triplet loss",
            "All pairs of a batch at once make better embeddings: Recall@1 of 47.2 on CUB, where "
            "contrastive loss has 26.4 and triplet loss 36.1, and 62.1 on Stanford Online "
            "Products (42.0, 42.1).",
            "numbers of the paper as later papers quote them; those of contrastive and triplet "
            "loss are of 2016, and later runs of both are far higher",
            better=("lifted_structure_raw",),
            worse=("contrastive", "triplet_semihard"),
            datasets=("omniglot",),
        ),
    ),
    "The row has the distance of the paper, between embeddings that are not normalised.",
)
PAPERS = (FIELD, IBC, ENSEMBLE, POOLING, LIFTED)


def claims_on(dataset: str) -> list[Claim]:
    """Claims that the rows of one table decide."""
    return [
        claim
        for paper in PAPERS
        for claim in paper.claims
        if dataset in claim.datasets and claim.clean is None
    ]
